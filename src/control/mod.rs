//! The loop that drives core, and the one writer of [`Published`](zonekeeper_core::Published).
//!
//! ```text
//! consensus ── applied ──> publish ── one swap ──> dns, proxy, api
//! probe ── verdicts ──> report ──> all voters ──> evidence ──> lead ── proposal ──> consensus
//! ```
//!
//! - `publish`: the watermark is durable before the swap, so that a restarted node never answers older than before.
//! - `open`: the common secrets, which the state holds sealed.
//! - `report`: what this node sees, renewed on change and twice a second.
//! - `lead`: every node weighs the evidence and knows why nothing moves; the leader alone proposes, one proposal at a
//!   time, and decides again after it was applied.

mod lead;
mod open;
mod publish;
mod report;

pub(crate) use lead::Lead;
pub(crate) use open::Opener;
pub(crate) use publish::{Intake, Publisher, publication};
pub(crate) use report::{Reporter, Vitals, watch_vitals};
