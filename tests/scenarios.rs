//! Plays every story of `tests/scenarios` and compares its log with the one that was blessed.
//!
//! A story is a folder: `README` (four lines), `world.yaml`, `policy.yaml`, `script.yaml` and
//! `log.expect`. The real service and the real client play it against the pretended cluster, on a
//! clock that leaps. `SPOT_BLESS=1 tests/run scenarios NAME` writes the log; read it before you
//! commit it. Every story ends with turns in which nothing changes, and no promise broken.
//!
//! **Does not know:** how anything is done.

#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/house.rs"]
mod house;
#[path = "stage/log.rs"]
mod log;
#[path = "stage/story.rs"]
mod story;

use std::fs;

use libtest_mimic::{Arguments, Failed, Trial};

use story::Story;

fn main() {
    let arguments = Arguments::from_args();
    let trials = story::all()
        .into_iter()
        .map(|story| Trial::test(story.name.clone(), move || plays_as_told(&story)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn plays_as_told(story: &Story) -> Result<(), Failed> {
    let readme = fs::read_to_string(story.file("README"))?;
    if readme.lines().count() != 4 {
        return Err("a README tells the story in four lines".into());
    }
    let played = house::play(story.home(), None);
    let log = played.log();
    let place = story.file("log.expect");
    if std::env::var_os("SPOT_BLESS").is_some() {
        fs::write(&place, &log)?;
    }
    played.kept_its_promises()?;
    played.came_to_rest()?;
    let expected = fs::read_to_string(&place)
        .map_err(|_| "there is no log.expect yet: write it with SPOT_BLESS=1, then read it")?;
    if log != expected {
        return Err(log::difference(&expected, &log).into());
    }
    Ok(())
}
