//! What every test from outside needs: facts are waited for, and ports are nobody else's.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Waits until `fact` is true, `most` at the most.
#[track_caller]
pub(crate) fn eventually_within(most: Duration, what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + most;
    while !fact() {
        assert!(Instant::now() < deadline, "it took more than {most:?} until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody listens on, and that no other test was given.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let port = listener.local_addr().expect("it listens").port();
        if given.insert(port) {
            return port;
        }
    }
}
