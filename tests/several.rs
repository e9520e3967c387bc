//! Drives clouds of several boxes with the real binary: each test has a lab of its own, with boxes in network namespaces,
//! and cuts cables and pulls power there. What `firm lab` needs these tests need too; `tests/several/wrong.rs` needs root as
//! well, because it knocks at boxes itself.

#![expect(clippy::print_stderr, reason = "a test says what its boxes said when it fails, and the figures that it saw")]

#[path = "several/changing.rs"]
mod changing;
#[path = "cloud/harness.rs"]
mod harness;
#[path = "several/joining.rs"]
mod joining;
#[path = "several/lab.rs"]
mod lab;
#[path = "several/losing.rs"]
mod losing;
#[path = "several/partitions.rs"]
mod partitions;
#[path = "waiting.rs"]
mod waiting;
#[path = "several/wrong.rs"]
mod wrong;
