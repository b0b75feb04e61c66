//! Draws homes, wishes and faults from seeds, and watches the promises after every turn.
//!
//! A seed and a commit say everything: the same seed gives the same storm. Faults end; some hours
//! later all that is wanted must be done, or held with its sentence. `tests/run storm --from 17
//! --seeds 1` plays one seed again; a seed that fails becomes a scenario.
//!
//! Ends standard output with one line of JSON: `{seeds, turns, turns_per_second, broken, bad_luck,
//! unsettled}`.
//!
//! **Does not know:** what spot ought to do; only what it must never do, and that it must end.

#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/house.rs"]
mod house;
#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/log.rs"]
mod log;
#[expect(dead_code, reason = "the stage is shared, and this test needs only a part of it")]
#[path = "stage/story.rs"]
mod story;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use libtest_mimic::{Arguments, Failed, Trial};
use spot::cluster::{HostName, Vmid};
use spot::gate::{Here, Mode};
use spot::pretend::World;
use spot::pretend::script::{Weather, storm};
use spot::service::Ask;

use house::{Event, Home};

/// How many seeds the default run plays.
const SEEDS: u64 = 300;
/// Faults and wishes come within this time …
const STORM: Duration = Duration::from_secs(3 * 3600);
/// … and after this much more everything must have come to rest: the last window closes within the
/// hour, and what failed is tried again after growing pauses.
const CALM: Duration = Duration::from_secs(7 * 1800);
const FAULTS_AT_MOST: usize = 12;
const WISHES_AT_MOST: usize = 5;

/// What all storms of a run added up to.
#[derive(Default)]
struct Figures {
    seeds: u64,
    turns: usize,
    broken: usize,
    bad_luck: u32,
    unsettled: usize,
}

fn main() {
    let arguments = Arguments::from_args();
    let from = setting("SPOT_STORM_FROM").unwrap_or(1);
    let seeds = setting("SPOT_STORM_SEEDS").unwrap_or(SEEDS);
    let figures = Arc::new(Mutex::new(Figures::default()));
    let trial = |seed: u64| {
        let figures = figures.clone();
        Trial::test(format!("seed {seed}"), move || weathers(seed, &figures))
    };
    let trials = (from..from + seeds).map(trial).collect();
    #[expect(clippy::disallowed_methods, reason = "it measures how fast the storms really pass")]
    let began = Instant::now();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let figures = figures.lock().expect("counting does not panic");
    let Figures { seeds, turns, broken, bad_luck, unsettled } = &*figures;
    if *seeds > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let turns_per_second = (*turns as f64 / began.elapsed().as_secs_f64()).round();
        println!(
            "{}",
            serde_json::json!({
                "seeds": seeds,
                "turns": turns,
                "turns_per_second": turns_per_second,
                "broken": broken,
                "bad_luck": bad_luck,
                "unsettled": unsettled,
            })
        );
    }
    conclusion.exit();
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    Some(text.to_str().and_then(|text| text.parse().ok()).expect("a seed is a whole number"))
}

fn weathers(seed: u64, figures: &Mutex<Figures>) -> Result<(), Failed> {
    let played = house::play(home(seed), None);
    let undone = played.left_undone();
    let unsettled = played.came_to_rest().is_err() || !undone.is_empty();
    {
        let mut figures = figures.lock().expect("counting does not panic");
        figures.seeds += 1;
        figures.turns += played.turns;
        figures.broken += played.tally.promises_broken.len();
        figures.bad_luck += played.tally.bad_luck;
        figures.unsettled += usize::from(unsettled);
    }
    let told = |fault: String| format!("seed {seed}: {fault}\n{}", played.log());
    played.kept_its_promises().map_err(told)?;
    played.came_to_rest().map_err(told)?;
    if undone.is_empty() { Ok(()) } else { Err(told(undone.join("; ")).into()) }
}

/// One of the shapes, one of the policies, and what the seed draws over them.
fn home(seed: u64) -> Home {
    let mut random = Rng::with_seed(seed);
    let shapes = ["reference", "pair", "equals"];
    let shape = shapes[random.usize(..shapes.len())];
    let stage = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stage");
    let world = story::shaped(serde_json::json!({ "shape": shape, "seed": seed }));
    let text = serde_yaml::to_string(&world).expect("a world is plain");
    let mut world = World::read(&text).expect("the shapes are sound");
    let hosts: Vec<HostName> = world.hosts().map(|host| host.name.clone()).collect();
    let guests: Vec<Vmid> = world.guests().map(|guest| guest.vmid).collect();
    let faults = random.usize(1..=FAULTS_AT_MOST);
    let weather = Weather { hosts: hosts.clone(), guests, span: STORM, faults };
    world.set_out(storm(seed, &weather));
    let policy = story::policy(&stage.join(format!("policies/{shape}.yaml")));
    let policy = policy.expect("the policies of the shapes are sound");
    Home {
        name: format!("seed {seed} over {shape}"),
        world,
        policies: BTreeMap::from([("policy.yaml".to_owned(), Ok(policy))]),
        mode: Mode::Act,
        here: Here::Outside,
        lasts: STORM + CALM,
        events: wishes(&mut random, &hosts),
        befalls: None,
    }
}

/// What people ask meanwhile, and a restart of the service now and then.
fn wishes(random: &mut Rng, hosts: &[HostName]) -> Vec<(Duration, Event)> {
    let mut wishes = Vec::new();
    for _ in 0..random.usize(..=WISHES_AT_MOST) {
        let at = Duration::from_secs(random.u64(..STORM.as_secs()));
        let host = hosts[random.usize(..hosts.len())].clone();
        let later = at + Duration::from_secs(random.u64(60..3600));
        let for_seconds = Some(random.u64(60..7200));
        let mut wish = |at: Duration, ask: Ask| {
            wishes.push((at, Event::Asked { ask, by: "anna".into(), confirmed: false }));
        };
        match random.u8(..6) {
            0 | 1 => wish(
                at,
                Ask::Up { hosts: vec![host], guest: None, until: None, for_seconds, because: None },
            ),
            2 => wish(at, Ask::Down { hosts: vec![host], until: None, for_seconds }),
            3 => {
                wish(at, Ask::Freeze { host: host.clone() });
                wish(later, Ask::Thaw { host });
            }
            4 => {
                wish(at, Ask::Empty { host: host.clone() });
                wish(later, Ask::Release { host });
            }
            _ => {
                let lasting = Duration::from_secs(random.u64(5..600));
                wishes.push((at, Event::Down { lasting }));
            }
        }
    }
    wishes.sort_by_key(|(at, _)| *at);
    wishes
}
