//! Drives the real binary from outside, with real clients: curl, and Python's `h2`.
//!
//! One test program, so that the guests are built once and linked once. Each test has a cloud of its own, in a
//! folder and on ports of its own; nothing listens beyond loopback.

#![expect(clippy::print_stderr, reason = "a test says what its node said when it fails, and the figures that it saw")]

#[path = "cloud/api_matrix.rs"]
mod api_matrix;
#[path = "cloud/attack.rs"]
mod attack;
#[path = "cloud/bad_input.rs"]
mod bad_input;
#[path = "cloud/durability.rs"]
mod durability;
#[path = "cloud/fuzz.rs"]
mod fuzz;
#[path = "fuzzing.rs"]
mod fuzzing;
#[path = "cloud/harness.rs"]
mod harness;
#[path = "cloud/isolation.rs"]
mod isolation;
#[path = "cloud/observing.rs"]
mod observing;
#[path = "cloud/road.rs"]
mod road;
#[path = "cloud/sites.rs"]
mod sites;
#[path = "cloud/stages.rs"]
mod stages;
#[path = "cloud/visitors.rs"]
mod visitors;
#[path = "waiting.rs"]
mod waiting;
#[path = "cloud/wild.rs"]
mod wild;
