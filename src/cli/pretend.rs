//! `spot pretend`: a pretended cluster, served to any client of PVE's API until it is told to stop.
//!
//! What a client needs is printed: addresses, fingerprints, token, and a `spot.yaml` that is ready
//! to use.
//!
//! **Does not know:** how the cluster behaves.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;

use super::{Exit, PretendArgs, paper};

use crate::pretend::{
    Log, RequestLine, ScaledClock, Scripted, Serving, Weather, World, serve, storm,
};
use crate::service::terminated;
use crate::site::Clock;

/// Worlds and scripts larger than this were not written by hand.
const LARGEST_FILE_BYTES: u64 = 4 << 20;

pub async fn pretend(args: &PretendArgs) -> anyhow::Result<Exit> {
    let mut world = World::read(&text(&args.world)?)
        .map_err(|fault| anyhow::anyhow!("{}: {fault}", args.world.display()))?;
    if let Some(script) = &args.script {
        world.set_out(self::script(script)?);
    }
    if let Some(seed) = args.seed {
        world.set_out(storm(seed, &weather(&world, 1)));
    }
    let clock = ScaledClock::new(world.start(), args.speed).map_err(anyhow::Error::msg)?;
    let about = format!(
        "the pretended cluster {} with {} hosts and {} guests, at {}, {} times real time",
        world.cluster(),
        world.hosts().count(),
        world.guests().count(),
        clock.now().civil,
        args.speed,
    );
    let log = args.requests.as_deref().map(log).transpose()?;
    let shared = Arc::new(Mutex::new(world));
    let serving =
        serve(shared, args.listen, args.magic, clock, log).await.map_err(anyhow::Error::msg)?;
    announce(&about, &serving)?;
    terminated().await.context("signals cannot be heard")?;
    Ok(Exit::Yes)
}

fn announce(about: &str, serving: &Serving) -> anyhow::Result<()> {
    let (token, secret) = &serving.token;
    let mut out = format!("{}\n\n", paper::plain(about));
    for (host, url) in &serving.urls {
        let fingerprint = serving.fingerprints.get(host).map_or("", String::as_str);
        out += &format!("{host}  {url}  {fingerprint}\n");
    }
    out += &format!("magic packets  udp {}\n", serving.magic);
    out += &format!("token  {token}={secret}\n\n");
    out += "# spot.yaml for it; the secret in the environment: SPOT_TOKEN\nhosts:\n";
    for (host, url) in &serving.urls {
        let fingerprint = serving.fingerprints.get(host).map_or("", String::as_str);
        out += &format!("  {host}: {{ url: \"{url}\", pins: [\"{fingerprint}\"] }}\n");
    }
    out += &format!("token: {{ id: \"{token}\", env: SPOT_TOKEN }}\n");
    out += &format!("wake_only: [\"{}\"]\n", serving.magic);
    out += "mode: act\nhere: outside\nclock: trust\n";
    out += "state: state\nsocket: spot.sock\npolicies: policies\n";
    out += "\nserving until Ctrl-C\n";
    Ok(paper::raw(out.as_bytes())?)
}

/// Faults by a seed, over everything there is.
pub fn weather(world: &World, days: u16) -> Weather {
    /// A few surprises a day; more would hide what each of them does.
    const FAULTS_A_DAY: usize = 6;
    Weather {
        hosts: world.hosts().map(|host| host.name.clone()).collect(),
        guests: world.guests().map(|guest| guest.vmid).collect(),
        span: std::time::Duration::from_secs(u64::from(days) * 24 * 3600),
        faults: FAULTS_A_DAY * usize::from(days),
    }
}

/// What a person wrote.
pub fn text(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    anyhow::ensure!(size <= LARGEST_FILE_BYTES, "{shown} is too large: {size} bytes");
    std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))
}

/// A list of what happens to the world, and when.
fn script(path: &Path) -> anyhow::Result<Vec<Scripted>> {
    let shown = path.display();
    let yaml: serde_yaml::Value =
        serde_yaml::from_str(&text(path)?).with_context(|| format!("{shown} is not YAML"))?;
    // By way of JSON, where an event is written as `key: value`.
    let json = serde_json::to_value(yaml).with_context(|| format!("{shown} has no plain form"))?;
    serde_json::from_value(json).with_context(|| format!("{shown} is not a script"))
}

/// Writes a line for every request served; a line that cannot be written is said once.
pub fn log(path: &Path) -> anyhow::Result<Log> {
    let file = std::fs::File::create(path)
        .with_context(|| format!("cannot write requests to {}", path.display()))?;
    let file = Mutex::new((file, false));
    Ok(Arc::new(move |request: &RequestLine| {
        let mut guard = file.lock().expect("no code panics while it writes a line");
        let (file, failed) = &mut *guard;
        let mut line = serde_json::to_string(request).unwrap_or_default();
        line.push('\n');
        if let Err(error) = file.write_all(line.as_bytes())
            && !std::mem::replace(failed, true)
        {
            paper::aside(&format!("spot: requests can no longer be written: {error}"));
        }
    }))
}
