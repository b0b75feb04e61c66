//! The pretended cluster.

pub mod answer;
pub mod clock;
pub mod file;
pub mod guests;
pub mod iron;
pub mod memory;
pub mod power;
pub mod rights;
pub mod script;
pub mod server;
pub mod tally;
pub mod task;
pub mod world;

pub use answer::{ApiRequest, ApiResponse, answer};
pub use clock::{LeapClock, Passing, ScaledClock, Wall};
pub use iron::{Iron, View};
pub use memory::{Log, MemoryTransport, MemoryWaker, RequestLine};
pub use power::{Door, Phase};
pub use script::{Event, Scripted};
pub use server::{Serving, serve};
pub use tally::{Happening, Tally};
pub use world::{Shared, World};

/// The reference home, as a world file.
pub const REFERENCE: &str = include_str!("pretend/reference.yaml");
