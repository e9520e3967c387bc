//! Instances that behave, and instances that don't.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::limits::{GUEST_TABLE_ELEMENTS_MAX, INSTANCES_MAX};
use http_body_util::BodyExt;
use sandbox::{Cell, Fault};

use crate::guests::{component, hello};
use crate::world::{World, get, on_a_core, permit, text, visit};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_component_answers", a_component_answers),
    ("each_request_has_a_fresh_instance", each_request_has_a_fresh_instance),
    ("a_trap_is_a_fault_and_a_log_line", a_trap_is_a_fault_and_a_log_line),
    ("a_trap_after_the_answer_was_begun_is_a_fault", a_trap_after_the_answer_was_begun_is_a_fault),
    ("a_trap_in_the_middle_of_a_stream_breaks_it_off", a_trap_in_the_middle_of_a_stream_breaks_it_off),
    ("silence_is_a_fault", silence_is_a_fault),
    ("an_endless_loop_is_stopped_and_others_run_on", an_endless_loop_is_stopped_and_others_run_on),
    ("memory_is_bounded", memory_is_bounded),
    ("a_table_grows_to_its_bound_and_no_further", a_table_grows_to_its_bound_and_no_further),
    ("a_long_stream_arrives_whole", a_long_stream_arrives_whole),
    ("the_deadline_cuts_a_stream_that_nobody_reads", the_deadline_cuts_a_stream_that_nobody_reads),
    ("an_instance_stops_when_its_visitor_goes", an_instance_stops_when_its_visitor_goes),
    ("a_full_pool_is_busy_and_recovers", a_full_pool_is_busy_and_recovers),
    ("a_request_without_a_host_is_refused", a_request_without_a_host_is_refused),
];

const ENDLESS: &str = "(call $respond) (loop (call $write (i32.const 4096)) (br 0))";

/// The fault that `body`'s handler ends with, and the log.
fn fault_of(pages: u32, body: &str, change: impl FnOnce(&mut Cell)) -> (Fault, Vec<String>) {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(pages, body)).await;
        let mut cell = world.cell();
        change(&mut cell);
        let fault = world.ask(&program, cell).await.expect_err("it faults");
        (fault, world.log.take())
    })
}

fn a_component_answers() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&hello()).await;
        let mut lengths = Vec::new();
        for _ in 0..20 {
            let response = world.ask(&program, world.cell()).await.expect("it answers");
            assert_eq!(response.status(), 200);
            lengths.push(http_body::Body::size_hint(response.body()).exact());
            assert_eq!(text(response).await.expect("it is whole"), "xxxxx");
            assert_eq!(world.log.take(), ["request-1 Stdout: hello"]);
        }
        // Where the clock strikes in the middle of one, it is sent as it comes.
        assert!(lengths.contains(&Some(5)), "the length of a short one is known: {lengths:?}");
    });
}

fn each_request_has_a_fresh_instance() {
    on_a_core(async {
        let world = World::new();
        // Writes as many bytes as a cell of memory says after adding one to it.
        let body = "(i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
            (call $respond) (call $write (i32.load (i32.const 16))) (call $finish)";
        let program = world.program(&component(2, body)).await;
        for _ in 0..50 {
            let response = world.ask(&program, world.cell()).await.expect("it answers");
            assert_eq!(text(response).await.expect("it is whole"), "x");
        }
    });
}

fn a_trap_is_a_fault_and_a_log_line() {
    let (fault, log) = fault_of(2, "unreachable", |_| {});
    assert_eq!(fault, Fault::Trap("wasm `unreachable` instruction executed".to_owned()));
    assert!(log[0].starts_with("request-1 Fault: the component trapped: wasm `unreachable`"), "{log:?}");
    assert_eq!(log.iter().filter(|line| line.contains("trapped")).count(), 1, "{log:?}");
}

fn a_trap_after_the_answer_was_begun_is_a_fault() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, "(call $respond) (call $write (i32.const 5)) unreachable")).await;
        let mut faults = 0;
        for _ in 0..20 {
            match world.ask(&program, world.cell()).await {
                // Nothing has been sent yet, so the visitor needn't see half of it.
                Err(Fault::Trap(_)) => faults += 1,
                Err(other) => panic!("{other:?}"),
                // The clock struck before the trap: it is sent as it comes, and breaks off.
                Ok(response) => assert!(text(response).await.is_err(), "it is whole"),
            }
        }
        assert!(faults > 0, "the clock struck each time");
    });
}

fn a_trap_in_the_middle_of_a_stream_breaks_it_off() {
    on_a_core(async {
        let world = World::new();
        // More than waits unsent.
        let body = "(call $respond)
            (loop (call $write (i32.const 4096))
                (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))
            unreachable";
        let program = world.program(&component(2, body)).await;
        let mut body = world.ask(&program, world.cell()).await.expect("it answers").into_body();
        let mut length = 0;
        let error = loop {
            match body.frame().await.expect("it breaks off, it doesn't end") {
                Ok(frame) => length += frame.into_data().expect("no trailers").len(),
                Err(error) => break error,
            }
        };
        assert_eq!(length, 409_600);
        assert!(error.to_string().contains("broke off"), "{error}");
        assert!(body.frame().await.is_none(), "there is nothing after the error");
        let log = world.log.take();
        assert!(log[0].contains("trapped"), "{log:?}");
    });
}

fn silence_is_a_fault() {
    let (fault, log) = fault_of(2, "", |_| {});
    assert_eq!(fault, Fault::NoResponse);
    assert_eq!(log, ["request-1 Fault: the component returned without a response"]);
}

fn an_endless_loop_is_stopped_and_others_run_on() {
    on_a_core(async {
        let world = World::new();
        let endless = world.program(&component(2, "(loop (br 0))")).await;
        let quick = world.program(&hello()).await;
        let cpu = Duration::from_millis(200);
        let looping = world.ask(&endless, Cell { cpu, ..world.cell() });
        let others = async {
            let mut answered = 0;
            loop {
                world.ask(&quick, world.cell()).await.expect("it answers");
                answered += 1;
                tokio::task::yield_now().await;
                if answered == 20 {
                    break Instant::now();
                }
            }
        };
        let looping = async { (looping.await.expect_err("it is stopped"), Instant::now()) };
        let ((fault, stopped), answered) = tokio::join!(looping, others);
        assert_eq!(fault, Fault::OutOfCpu(cpu));
        assert!(answered < stopped, "20 requests were answered on the same thread before the loop was stopped");
    });
}

fn memory_is_bounded() {
    let bomb = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    let (fault, log) = fault_of(2, bomb, |_| {});
    assert_eq!(fault, Fault::OutOfMemory(1 << 20));
    assert!(log[0].contains("needed more than its 1MiB of memory"), "{log:?}");
    // 2 MiB before the first instruction.
    let (fault, _) = fault_of(32, "", |_| {});
    assert_eq!(fault, Fault::OutOfMemory(1 << 20));
}

fn a_table_grows_to_its_bound_and_no_further() {
    const STEP: usize = 1_000;
    // Answers with as many bytes as the table could be grown by so many elements.
    let body = format!(
        "(loop $more
          (if (i32.ne (table.grow $table (ref.null func) (i32.const {STEP})) (i32.const -1))
            (then (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $more))))
        (call $respond) (call $write (local.get $i)) (call $finish)"
    );
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, &body)).await;
        let response = world.ask(&program, world.cell()).await.expect("it answers");
        let grown = text(response).await.expect("it is whole").len() * STEP;
        assert_eq!(grown, GUEST_TABLE_ELEMENTS_MAX);
    });
}

fn a_long_stream_arrives_whole() {
    on_a_core(async {
        let world = World::new();
        let body = "(call $respond)
            (loop (call $write (i32.const 4096))
                (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
            (call $finish)";
        let program = world.program(&component(2, body)).await;
        let response = world.ask(&program, world.cell()).await.expect("it answers");
        assert_eq!(text(response).await.expect("it is whole").len(), 4_096_000);
        assert!(world.log.take().is_empty());
    });
}

fn the_deadline_cuts_a_stream_that_nobody_reads() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, ENDLESS)).await;
        let (held, gone) = permit();
        let timeout = Duration::from_millis(100);
        let response = world.ask_with(&program, Cell { timeout, ..world.cell() }, Some(held)).await;
        let body = response.expect("it answers").into_body();
        // The instance is gone although its body is still held.
        gone.await;
        let error = body.collect().await.expect_err("it broke off");
        assert!(error.to_string().contains("broke off"), "{error}");
        assert_eq!(world.log.take().len(), 1);
    });
}

fn an_instance_stops_when_its_visitor_goes() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, ENDLESS)).await;
        let (held, gone) = permit();
        let response = world.ask_with(&program, world.cell(), Some(held)).await.expect("it answers");
        let mut body = response.into_body();
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        drop(body);
        gone.await;
        // Before it has answered, too.
        let waiting = world.program(&component(2, "(loop (br 0))")).await;
        let (held, gone) = permit();
        let asked = world.ask_with(&waiting, world.cell(), Some(held));
        assert!(tokio::time::timeout(Duration::from_millis(20), asked).await.is_err());
        gone.await;
        assert!(world.log.take().is_empty(), "that a visitor goes is no fault");
    });
}

fn a_full_pool_is_busy_and_recovers() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, ENDLESS)).await;
        let mut open = Vec::new();
        let mut gone = Vec::new();
        for _ in 0..INSTANCES_MAX {
            let (held, its_end) = permit();
            let response = world.ask_with(&program, world.cell(), Some(held)).await;
            open.push(response.expect("there is room"));
            gone.push(its_end);
        }
        assert!(matches!(world.ask(&program, world.cell()).await, Err(Fault::Busy)));
        drop(open);
        for its_end in gone {
            its_end.await;
        }
        assert!(world.ask(&program, world.cell()).await.is_ok());
    });
}

fn a_request_without_a_host_is_refused() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&hello()).await;
        let mut request = get();
        request.headers_mut().clear();
        let fault = world
            .sandbox
            .handle(&program, &Arc::new(world.cell()), visit(None), request, tokio::spawn)
            .await
            .expect_err("it is refused");
        assert!(matches!(fault, Fault::BadRequest(_)), "{fault:?}");
    });
}
