//! Stops the service at every request of every story, in three places, and takes its journal up
//! again: before the intent was on disk, after it and before the request, and after the request and
//! before its answer was on disk.
//!
//! Each time the world must end as it does undisturbed, no promise may be broken, and nothing that
//! moves a guest or powers a host off may have been asked more often than it was undisturbed.
//! Packets may: they harm nothing, and only the first volley of each wake is interrupted.
//!
//! **Does not know:** power loss below the journal; the journal's own tests cut its log anywhere.

#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/house.rs"]
mod house;
#[path = "stage/log.rs"]
mod log;
#[path = "stage/story.rs"]
mod story;

use std::collections::BTreeMap;

use libtest_mimic::{Arguments, Failed, Trial};

use house::{Halt, Played, Stop};
use story::Story;

fn main() {
    let arguments = Arguments::from_args();
    let trials = story::all()
        .into_iter()
        .map(|story| Trial::test(story.name.clone(), move || survives_every_stop(&story)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn survives_every_stop(story: &Story) -> Result<(), Failed> {
    let undisturbed = house::play(story.home(), None);
    let mut faults = Vec::new();
    for (request, words, first) in worth_stopping_at(&undisturbed) {
        for stop in [Stop::Unmeant, Stop::Unasked, Stop::Unanswered] {
            // All intents of a turn are written at once, so they are also lost together.
            if stop == Stop::Unmeant && !first {
                continue;
            }
            let played = house::play(story.home(), Some(Halt { request, stop }));
            if let Err(fault) = same_end(&undisturbed, &played) {
                faults.push(format!("stopped at request {request} ({words}), {stop:?}: {fault}"));
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// Each request once, but of the volleys to one host in a row only the first; with whether it was
/// the first of its turn.
fn worth_stopping_at(played: &Played) -> Vec<(usize, String, bool)> {
    let mut last_wake = None;
    let mut chosen = Vec::new();
    for (number, asked) in played.asked.iter().enumerate() {
        let wake = asked.packets.then(|| asked.words.clone());
        if wake.is_none() || wake != last_wake {
            chosen.push((number, asked.words.clone(), asked.first_of_turn));
        }
        last_wake = wake;
    }
    chosen
}

fn same_end(undisturbed: &Played, played: &Played) -> Result<(), String> {
    if !played.halted {
        return Err("the request was never reached".into());
    }
    played.kept_its_promises()?;
    played.came_to_rest()?;
    if played.end != undisturbed.end {
        let difference = log::difference(&undisturbed.end, &played.end);
        return Err(format!("the world ends otherwise {difference}"));
    }
    let before = posts(undisturbed);
    for (post, times) in posts(played) {
        let allowed = before.get(&post).copied().unwrap_or(0);
        if times > allowed {
            return Err(format!("asked {times} times instead of {allowed}: {post}"));
        }
    }
    Ok(())
}

/// What was asked over the API, and how often.
fn posts(played: &Played) -> BTreeMap<String, usize> {
    let mut posts = BTreeMap::new();
    for post in &played.posts {
        *posts.entry(post.clone()).or_default() += 1;
    }
    posts
}
