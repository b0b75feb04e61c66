//! At most two reads at once at each host.
//!
//! A host answers with a handful of processes, each of them busy until its answer is done; a report
//! and a slow storage must not take them all. Requests that change something pass by these lanes,
//! so that a power-off never waits behind a report.
//!
//! Who waits gives up its [`Working`], and whoever leaves hands a new one over with the lane: on a
//! clock that leaps, time passes while a lane is full and never between leaving and entering.
//!
//! **Does not know:** what is asked.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use crate::cluster::HostName;
use crate::site::{Clock, Working};

/// PVE runs three workers; one is left to the owner's browser.
const READS_AT_ONCE: usize = 2;

#[derive(Default)]
pub struct Lanes {
    by_host: BTreeMap<HostName, Lane>,
}

#[derive(Default)]
struct Lane {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Working>>,
}

/// A place in a lane, given on when dropped.
pub struct Place<'a, C: Clock> {
    lanes: &'a RefCell<Lanes>,
    clock: &'a C,
    host: HostName,
}

/// Waits for a place at `host`; comes back with the guard that was given, or the one handed over.
pub async fn enter<'a, C: Clock>(
    lanes: &'a RefCell<Lanes>,
    clock: &'a C,
    host: &HostName,
    working: Working,
) -> (Place<'a, C>, Working) {
    let turn = {
        let mut lanes = lanes.borrow_mut();
        let lane = lanes.by_host.entry(host.clone()).or_default();
        if lane.taken < READS_AT_ONCE {
            lane.taken += 1;
            None
        } else {
            let (turn, coming) = oneshot::channel();
            lane.waiting.push_back(turn);
            Some(coming)
        }
    };
    let working = match turn {
        None => working,
        Some(coming) => {
            drop(working);
            coming.await.expect("a lane lives as long as those who wait in it")
        }
    };
    (Place { lanes, clock, host: host.clone() }, working)
}

impl<C: Clock> Drop for Place<'_, C> {
    fn drop(&mut self) {
        let mut lanes = self.lanes.borrow_mut();
        let Some(lane) = lanes.by_host.get_mut(&self.host) else {
            return;
        };
        // Somebody who no longer waits hands the guard back, and the next is asked.
        let mut working = self.clock.working();
        while let Some(turn) = lane.waiting.pop_front() {
            match turn.send(working) {
                Ok(()) => return,
                Err(back) => working = back,
            }
        }
        lane.taken -= 1;
    }
}
