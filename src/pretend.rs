//! The pretended cluster.

pub mod clock;

pub use clock::{LeapClock, Passing, ScaledClock, Wall};
