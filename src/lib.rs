//! `spot` lets the hosts of a Proxmox VE cluster sleep while nobody needs them.
//!
//! The story in one breath: **policies** say when hosts should run; each **turn** the service takes
//! what people asked (the inbox), *observes* the cluster, *notices* what changed, *plans* what
//! ought to happen, has the **gate** clear or refuse every request, *advances* what was cleared
//! (intent on disk, request, answer on disk) and *publishes* a status.
//!
//! Data goes right and down, never back:
//!
//! ```text
//! policies ── text::read ──────────► Policy ──────┐
//! PVE, UDP, clock ─ Site::observe ─► Observation ─┼─ plan::plan ─► Plan {desire, moves, holds, …}
//! journal (SQLite) ────────────────► Ledger ──────┘      │ next requests
//!                                                        ▼
//!           gate::check(requests, under way, seen, bounds) ─► Cleared … | Refusal … | Question …
//! Site::perform ◄── execute::advance ── intent, answer ─► journal
//! ```
//!
//! # Words
//!
//! One word per thing, in code, journal, page, metrics and README alike.
//!
//! | word | meaning |
//! |---|---|
//! | host | a physical machine that is a PVE node; `node` is only PVE's own name of it |
//! | tier | `low` (always on, never powered off by spot), `medium`, `high` |
//! | guest | a VM or container, named by its VMID |
//! | policy | one named rule that wants hosts awake at certain times |
//! | window | a stretch of time in which a policy wants its hosts awake |
//! | lease | an on-demand wish with an end: `spot up host3 --for 4h` |
//! | hold | the reason why something wanted is not done now (never a command) |
//! | frozen | left exactly as it is until `spot thaw` |
//! | observation, gap | what was seen of the cluster, when; what could not be seen |
//! | question | what judgement wants to know beyond the quiet look |
//! | evidence | votequorum's runtime state as the members themselves show it |
//! | desire | which hosts ought to be awake, and for whose sake |
//! | move | a purpose: wake host3, empty host3, rest host3, place guest 201 |
//! | request | one thing asked of the world |
//! | gate | the judge that knows nothing of policy and clears a request or refuses it |
//! | undertaking | a move once begun: its purpose and the requests in flight |
//! | journal, ledger | the entries on disk; what they add up to |
//!
//! Each file's first lines say what it is for, why it is so, and what it does not know;
//! `tests/tidy.rs` keeps the floors apart.

// Words.
pub mod cluster;
pub mod request;
// Judgement. A new variant must force a decision here, so no arm may catch what nobody thought of.
#[warn(clippy::wildcard_enum_match_arm)]
pub mod gate;
#[warn(clippy::wildcard_enum_match_arm)]
pub mod ledger;
#[warn(clippy::wildcard_enum_match_arm)]
pub mod plan;
pub mod policy;
#[warn(clippy::wildcard_enum_match_arm)]
pub mod undertaking;
// Contact.
pub mod checks;
pub mod journal;
pub mod pve;
pub mod site;
pub mod sources;
pub mod wake;
// Rehearsal.
pub mod pretend;
// Conduct.
pub mod execute;
pub mod service;
pub mod status;
// Faces.
pub mod cli;
pub mod config;
pub mod control;
