//! What our token lacks of what this home needs is told before it keeps anything from being done.
//!
//! A right that is missing shows late by itself: nobody is told that hibernation is not allowed
//! until a guest ought to hibernate, and what may not be *seen* is never refused, it is only not
//! there. So the rights are asked for once, and again while something is amiss.
//!
//! **Does not know:** how rights are granted.

use std::time::Duration;

use super::hold::Hold;
use super::{Plan, Scene};
use crate::cluster::rights::{self, Home};
use crate::cluster::{Answer, Question, Tier};
use crate::policy::Otherwise;

/// Rights seldom change, and a request once a day costs nothing.
const AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Somebody is at work on what is missing, or the cluster could not be seen whole.
const AGAIN_WHEN_AMISS: Duration = Duration::from_secs(300);

/// Asks for our rights when they are due, and tells each one that is missing.
pub fn ask(scene: &Scene<'_>, plan: &mut Plan) {
    let question = Question::Permissions;
    let stamped = scene.seen.answers.get(&question);
    let permissions = match stamped.map(|one| &one.answer) {
        Some(Ok(Answer::Permissions(permissions))) => Some(permissions),
        Some(Ok(_) | Err(_)) | None => None,
    };
    let missing = permissions.map(|permissions| home(scene).missing(permissions));
    let amiss = missing.as_ref().is_none_or(|missing| !missing.is_empty()) || !scene.seen.whole();
    let again = if amiss { AGAIN_WHEN_AMISS } else { AGAIN };
    if stamped.is_none_or(|one| scene.seen.turn_began.since(one.asked) >= again) {
        plan.questions.insert(question);
    }
    let token = permissions.map(|permissions| permissions.token.as_str()).unwrap_or_default();
    for one in missing.into_iter().flatten() {
        let grant = rights::grant(token, &one.path, one.privilege);
        let (privilege, what_for) = (one.privilege, one.what_for);
        plan.hold(Hold::RightMissing { privilege, path: one.path, what_for, grant });
    }
}

/// What this home needs rights for, as far as it was seen.
fn home(scene: &Scene<'_>) -> Home {
    let mut home = Home::default();
    for (host, look) in scene.seen.hosts.iter().filter(|(_, look)| look.listed) {
        match scene.policy.host(host).map(|settings| settings.tier) {
            Some(Tier::Medium | Tier::High) => home.sleepers.push(look.node.clone()),
            Some(Tier::Low) | None => home.always_on.push(look.node.clone()),
        }
    }
    let hibernates = scene.policy.guest_rules().iter().any(|rule| match rule.otherwise {
        Otherwise::Hibernate { .. } => true,
        Otherwise::Migrate | Otherwise::ShutDown | Otherwise::KeepAwake => false,
    });
    if hibernates {
        let names = scene.seen.storages.iter().map(|storage| storage.name.clone());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        home.states = Some(names);
    }
    home
}
