//! `spot schema`: what an editor needs to complete and check a policy file while it is written.
//!
//! **Does not know:** what the schema says.

use super::{Exit, paper};
use crate::policy::schema;

pub fn schema() -> anyhow::Result<Exit> {
    paper::json(&schema::schema())?;
    Ok(Exit::Yes)
}
