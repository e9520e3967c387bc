//! Instances that answer more than one request.

use std::sync::Arc;
use std::time::Duration;

use sandbox::{Cell, Fault, Program, Reuse, Visit};

use crate::guests::component;
use crate::world::{World, get, on_a_core, permit, text};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("an_instance_is_used_again", an_instance_is_used_again),
    ("each_line_is_its_own_request_s", each_line_is_its_own_request_s),
    ("a_permit_is_given_back_with_each_request", a_permit_is_given_back_with_each_request),
    (
        "a_component_that_can_t_answer_twice_is_no_longer_asked_to",
        a_component_that_can_t_answer_twice_is_no_longer_asked_to,
    ),
    ("instances_never_cross_cells_or_cores", instances_never_cross_cells_or_cores),
    ("an_instance_at_work_is_not_entered_again", an_instance_at_work_is_not_entered_again),
    ("what_waits_is_counted_and_let_go", what_waits_is_counted_and_let_go),
    ("nothing_waits_when_memory_is_short", nothing_waits_when_memory_is_short),
    ("the_box_s_memory_is_bounded", the_box_s_memory_is_bounded),
];

/// Answers with as many bytes as the instance has had requests.
const COUNTS: &str = "(i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
    (call $respond) (call $write (i32.load (i32.const 16))) (call $finish)";

/// As many pieces as wait unsent, and then for ever more.
const ENDLESS: &str = "(call $respond) (loop (call $write (i32.const 4096)) (br 0))";

fn reusing(world: &World) -> Arc<Cell> {
    Arc::new(Cell { reuse: Some(Reuse::new(2)), ..world.cell() })
}

/// The length of the answer to a request of that name, on that core.
async fn length(world: &World, program: &Arc<Program>, cell: &Arc<Cell>, request: &str, core: usize) -> usize {
    let visit = Visit { request: request.into(), core, permit: None };
    let response = world.sandbox.handle(program, cell, visit, get(), tokio::spawn).await.expect("it answers");
    text(response).await.expect("it is whole").len()
}

fn an_instance_is_used_again() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, COUNTS)).await;
        let cell = reusing(&world);
        for request in 1..=5 {
            assert_eq!(length(&world, &program, &cell, "r", 0).await, request);
        }
    });
}

fn each_line_is_its_own_request_s() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, &format!("(call $print) {COUNTS}"))).await;
        let cell = reusing(&world);
        for request in ["a", "b"] {
            length(&world, &program, &cell, request, 0).await;
        }
        assert_eq!(world.log.take(), ["a Stdout: hello", "b Stdout: hello"]);
    });
}

fn a_permit_is_given_back_with_each_request() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, COUNTS)).await;
        let cell = reusing(&world);
        for request in 1..=2 {
            let (held, gone) = permit();
            let visit = Visit { request: "r".into(), core: 0, permit: Some(held) };
            let response = world.sandbox.handle(&program, &cell, visit, get(), tokio::spawn).await.expect("it answers");
            gone.await;
            assert_eq!(text(response).await.expect("it is whole").len(), request);
        }
    });
}

fn a_component_that_can_t_answer_twice_is_no_longer_asked_to() {
    on_a_core(async {
        let world = World::new();
        // As JavaScript engines do: the second request gets no response at all; or as a bug would: it traps.
        for (ends, wanted) in [("return", "without a response"), ("unreachable", "trapped")] {
            let traps = format!("(if (i32.load (i32.const 16)) (then {ends})) {COUNTS}");
            let program = world.program(&component(2, &traps)).await;
            let cell = reusing(&world);
            assert_eq!(length(&world, &program, &cell, "r", 0).await, 1);
            let visit = Visit { request: "second".into(), core: 0, permit: None };
            let fault = world.sandbox.handle(&program, &cell, visit, get(), tokio::spawn).await.expect_err("it fails");
            let log = world.log.take();
            assert!(log[0].starts_with("second Fault: ") && log[0].contains(wanted), "{fault:?} {log:?}");
            assert!(log.last().is_some_and(|line| line.contains("take `reuse` out")), "{log:?}");
            for _ in 0..2 {
                assert_eq!(length(&world, &program, &cell, "r", 0).await, 1);
            }
            assert_eq!(world.sandbox.held(), (0, 0));
            assert!(world.log.take().is_empty());
        }
    });
}

fn instances_never_cross_cells_or_cores() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, COUNTS)).await;
        let (one, other) = (reusing(&world), reusing(&world));
        for (cell, core) in [(&one, 0), (&one, 1), (&other, 0)] {
            assert_eq!(length(&world, &program, cell, "r", core).await, 1);
        }
        // Nor programs, should a cell be asked for with another one.
        let different = world.program(&component(3, COUNTS)).await;
        assert_eq!(length(&world, &different, &one, "r", 0).await, 1);
    });
}

fn an_instance_at_work_is_not_entered_again() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, ENDLESS)).await;
        let cell = reusing(&world);
        let ask = || {
            let visit = Visit { request: "r".into(), core: 0, permit: None };
            world.sandbox.handle(&program, &cell, visit, get(), tokio::spawn)
        };
        let first = ask().await.expect("it answers");
        let second = ask().await.expect("another one answers");
        // Visitors who leave half-way: their instances are gone, not reused.
        drop((first, second));
        tokio::task::yield_now().await;
        assert_eq!(world.sandbox.held().1, 0);
    });
}

fn what_waits_is_counted_and_let_go() {
    on_a_core(async {
        let world = World::new();
        let program = world.program(&component(2, COUNTS)).await;
        let cell = reusing(&world);
        length(&world, &program, &cell, "r", 0).await;
        assert_eq!(world.sandbox.held(), (2 << 16, 1));
        // The release is gone, and what it had goes beside the core. The test's own time ends this.
        drop(cell);
        while world.sandbox.held() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

fn nothing_waits_when_memory_is_short() {
    on_a_core(async {
        let world = World::with_memory(3 << 16);
        let program = world.program(&component(2, COUNTS)).await;
        let cell = reusing(&world);
        for _ in 0..2 {
            assert_eq!(length(&world, &program, &cell, "r", 0).await, 1);
        }
        assert_eq!(world.sandbox.held(), (0, 0));
    });
}

fn the_box_s_memory_is_bounded() {
    on_a_core(async {
        let world = World::with_memory(3 << 16);
        let program = world.program(&component(2, ENDLESS)).await;
        let first = world.ask(&program, world.cell()).await.expect("there is room for one");
        let fault = world.ask(&program, world.cell()).await.expect_err("there isn't for two");
        assert_eq!(fault, Fault::BoxOutOfMemory);
        assert!(world.log.take()[0].contains("the box has no more memory"));
        drop(first);
        tokio::task::yield_now().await;
        assert!(world.ask(&program, world.cell()).await.is_ok());
    });
}
