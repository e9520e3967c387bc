//! Whoever has a stretch finds what a new one would hold.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, channel};

use base::limits::LET_GO_ASIDE_BYTES;
use proptest::prelude::*;
use wasmtime::ResourceLimiter as _;

use super::*;
use crate::cell::{Log, Stream, Voice};
use crate::gone::Gone;
use crate::limiter::{Budget, Limiter};
use crate::pressure::Pressure;
use crate::watch::Report;

const PAGE: usize = 64 << 10;

/// A file with a content that isn't zero anywhere.
fn contents(starts: &[(usize, usize)]) -> Contents {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let mut at = Vec::new();
    for (number, (start, pages)) in starts.iter().enumerate() {
        let bytes = pages * PAGE;
        let offset = at.last().map_or(0, |last: &ContentAt| last.offset + last.bytes);
        file.write_all(&vec![u8::try_from(number + 1).expect("a few"); bytes]).expect("there is room");
        at.push(ContentAt { offset, start: (start * PAGE) as u64, bytes: bytes as u64 });
    }
    Contents::of(file, &at).expect("it fits")
}

#[expect(unsafe_code, reason = "a test reads and writes what a guest would")]
fn bytes(memory: &mut Linear) -> &mut [u8] {
    // SAFETY: it is as long as it says, and nobody else has it.
    unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) }
}

fn is_new(memory: &mut Linear, content: Option<&Arc<Content>>, number: u8) -> bool {
    let held = content.map_or(0..0, |content| content.start..content.start + content.length);
    bytes(memory).iter().enumerate().all(|(at, byte)| *byte == if held.contains(&at) { number } else { 0 })
}

fn memories() -> Arc<Inner> {
    Memories::new(1).0
}

#[derive(Clone, Debug)]
struct Guest {
    /// Which content it has, if any.
    content: Option<usize>,
    grows: usize,
    /// Where it writes to, as parts of its memory.
    writes: Vec<(u16, u16)>,
}

fn guest() -> impl Strategy<Value = Guest> {
    let writes = proptest::collection::vec((any::<u16>(), 0..300_u16), 0..120);
    (proptest::option::of(0..2_usize), prop_oneof![3 => Just(0), 1 => 0..40_usize], writes)
        .prop_map(|(content, grows, writes)| Guest { content, grows, writes })
}

/// With the kernel's help, and without: an older one can't tell what was written to.
fn one_guest_after_the_other(pool: &Arc<Inner>, contents: &Contents, guests: &[Guest]) -> Result<(), TestCaseError> {
    for guest in guests {
        let content = guest.content.map(|number| &contents.0[number]);
        let number = guest.content.map_or(0, |number| u8::try_from(number + 1).expect("a few"));
        // Their contents and a few pages more; without any, fewer.
        let minimum = PAGE * if guest.content.is_some() { 6 } else { 3 };
        let mut memory = pool.take(&Arc::default(), content, minimum).expect("there is room");
        prop_assert_eq!(memory.byte_size(), minimum);
        prop_assert!(is_new(&mut memory, content, number), "it holds what another wrote");
        memory.grow_to(minimum + guest.grows * PAGE).expect("there is room");
        prop_assert!(is_new(&mut memory, content, number), "what it grew by isn't zero");
        let bytes = bytes(&mut memory);
        for (at, length) in &guest.writes {
            let at = usize::from(*at) * bytes.len() / 65_536;
            let end = (at + usize::from(*length) * 64).min(bytes.len());
            bytes[at..end].fill(0xee);
        }
    }
    Ok(())
}

#[test]
fn nobody_reads_what_another_wrote() {
    let contents = contents(&[(0, 2), (3, 3)]);
    let (told, untold) = (memories(), memories());
    assert!(told.pagemap.is_some(), "this kernel is older than 6.7, and doesn't tell which pages were written to");
    let untold = Arc::new(Inner { pagemap: None, ..Arc::into_inner(untold).expect("it is new") });
    proptest!(ProptestConfig::with_cases(48), |(guests in proptest::collection::vec(guest(), 1..8))| {
        one_guest_after_the_other(&told, &contents, &guests)?;
        one_guest_after_the_other(&untold, &contents, &guests)?;
    });
}

#[test]
fn a_stretch_of_the_same_content_is_used_again() {
    let (pool, contents) = (memories(), contents(&[(0, 1), (0, 1)]));
    let [first, second] = [&contents.0[0], &contents.0[1]];
    let mut starts = Vec::new();
    for content in [first, second, first, second] {
        let memory = pool.take(&Arc::default(), Some(content), PAGE).expect("there is room");
        starts.push(memory.as_ptr());
    }
    assert_eq!(starts[..2], starts[2..]);
    assert_ne!(starts[0], starts[1]);
    let idle = pool.idle[0].lock().expect("nobody panicked").len();
    assert_eq!((idle, pool.taken.load(Ordering::Relaxed)), (2, 0));
}

#[test]
fn so_many_wait_and_no_more() {
    let pool = memories();
    let all: Vec<_> = (0..2 * MEMORIES_IDLE_PER_CORE_MAX)
        .map(|_| pool.take(&Arc::default(), None, PAGE).expect("there is room"))
        .collect();
    drop(all);
    let idle = || pool.idle[0].lock().expect("nobody panicked").len();
    assert_eq!(idle(), MEMORIES_IDLE_PER_CORE_MAX);
    // One with a content takes the place of the oldest.
    let contents = contents(&[(0, 1)]);
    drop(pool.take(&Arc::default(), Some(&contents.0[0]), PAGE).expect("there is room"));
    assert_eq!(idle(), MEMORIES_IDLE_PER_CORE_MAX);
    Memories(Arc::clone(&pool)).release();
    assert_eq!(idle(), 0);
}

#[test]
fn so_many_are_in_use_and_no_more() {
    let pool = memories();
    let [greedy, other, third] = [(); 3].map(|()| Arc::default());
    let take = |share| pool.take(share, None, PAGE);
    let mut all: Vec<_> = (0..TENANT_MEMORIES_MAX).map(|_| take(&greedy).expect("there is room")).collect();
    assert!(matches!(take(&greedy), Err(Refused::TenantFull)), "others want some");
    all.extend((all.len()..INSTANCES_MAX as usize).map(|_| take(&other).expect("there is room")));
    assert!(matches!(take(&third), Err(Refused::Full)));
    all.pop();
    assert!(take(&third).is_ok());
    drop(all);
    assert!(take(&greedy).is_ok());
}

struct NoLog;

impl Log for NoLog {
    fn line(&self, _request: &str, _stream: Stream, _text: &str) {}
}

/// Whoever lets go of it is kept from everything else until its other end is.
struct Keeps(Receiver<()>);

impl Drop for Keeps {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

/// An instance's memory of that size, all of it written to, and what its tenant is billed for it.
fn written_to(
    pool: &Arc<Inner>,
    budget: &Arc<Budget>,
    share: &Arc<Share>,
    size: usize,
) -> (Linear, Limiter, Arc<Report>) {
    let report = Report::new(Voice::new(Arc::new(NoLog), "r".into()), share);
    let mut limiter = Limiter::new(u64::MAX, budget, share);
    report.note_memory(limiter.memory());
    assert!(limiter.memory_growing(0, size, None).is_ok_and(|allowed| allowed));
    let mut memory = pool.take(share, None, PAGE).expect("there is room");
    memory.grow_to(size).expect("there is room");
    bytes(&mut memory).fill(0xee);
    (memory, limiter, report)
}

#[test]
fn what_is_large_is_given_back_beside_the_core_and_counts_until_then() {
    let (pool, share, budget) = (memories(), Arc::default(), Budget::new(u64::MAX));
    let large = usize::try_from(LET_GO_ASIDE_BYTES).expect("some MiB") + PAGE;
    let gone = Gone::start(Arc::new(Pressure::new(u64::MAX))).expect("a thread");
    let (go_on, kept) = channel();
    gone.let_go_of(&Arc::default(), Box::new(Keeps(kept)));

    // Nobody has time for it yet, and the core goes on.
    let (memory, limiter, report) = written_to(&pool, &budget, &share, large);
    let at = memory.as_ptr();
    let (end, ended) = channel::<()>();
    gone.let_go(&share, (memory, limiter, end), &report);
    let pagemap = pool.pagemap.as_ref().expect("this kernel tells which pages were written to");
    let is_written = || pagemap.written(at, PAGE, PAGE).expect("it tells").pieces().count() > 0;
    let billed = || (budget.used(), share.memories.load(Ordering::Relaxed));
    assert!(is_written());
    assert_eq!(billed(), (large as u64, 1));
    // Whoever comes meanwhile has another place, and a small one is let go of here.
    let (mut memory, limiter, report) = written_to(&pool, &budget, &share, PAGE);
    assert_ne!(memory.as_ptr(), at);
    assert!(bytes(&mut memory).iter().all(|byte| *byte == 0xee));
    gone.let_go(&share, (memory, limiter), &report);
    assert_eq!(billed(), (large as u64, 1));

    drop(go_on);
    assert!(ended.recv().is_err(), "it says nothing, it goes");
    assert_eq!(billed(), (0, 0));
    for _ in 0..2 {
        assert!(is_new(&mut pool.take(&share, None, large).expect("there is room"), None, 0));
    }
}

#[test]
fn what_waits_to_be_let_go_of_is_so_when_the_sandbox_ends() {
    let (pool, share, budget) = (memories(), Arc::default(), Budget::new(u64::MAX));
    let gone = Gone::start(Arc::new(Pressure::new(u64::MAX))).expect("a thread");
    let (go_on, kept) = channel();
    gone.let_go_of(&Arc::default(), Box::new(Keeps(kept)));
    let ends: Vec<_> = (0..5)
        .map(|_| {
            let (memory, limiter, _) = written_to(&pool, &budget, &share, 4 * PAGE);
            let (end, ended) = channel::<()>();
            gone.let_go_of(&share, Box::new((memory, limiter, end)));
            ended
        })
        .collect();
    drop(gone);
    assert_eq!((budget.used(), pool.taken.load(Ordering::Relaxed)), (20 * PAGE as u64, 5));
    drop(go_on);
    for ended in ends {
        assert!(ended.recv().is_err(), "it says nothing, it goes");
    }
    assert_eq!((budget.used(), pool.taken.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_content_that_doesn_t_lie_in_its_file_is_refused() {
    for wrong in [
        ContentAt { offset: 65_536, start: 0, bytes: 65_536 },
        ContentAt { offset: 1, start: 0, bytes: 65_536 },
        ContentAt { offset: 0, start: 4_096, bytes: 65_536 },
        ContentAt { offset: 0, start: 0, bytes: 100 },
        ContentAt { offset: 0, start: 0, bytes: 0 },
        ContentAt { offset: 0, start: 1 << 32, bytes: 65_536 },
        ContentAt { offset: u64::MAX - 65_535, start: 0, bytes: 65_536 },
    ] {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&vec![0; PAGE]).expect("there is room");
        let refused = Contents::of(file, &[wrong]).err().map(|error| error.kind());
        assert_eq!(refused, Some(io::ErrorKind::InvalidData), "{wrong:?}");
    }
}

#[test]
fn stacks_are_used_again_and_cleared_where_that_is_asked_for() {
    use wasmtime::StackCreator as _;
    let stacks = Stacks::new(1);
    let size = 1 << 20;
    let first = stacks.new_stack(size, false).expect("there is room");
    let (top, guard) = (first.top(), first.guard_range());
    assert_eq!(first.range().len(), size);
    assert_eq!((first.range().end, guard.end.addr()), (top.addr(), first.range().start));
    // SAFETY: it is the stack's last byte, and nobody runs on it.
    #[expect(unsafe_code, reason = "a test writes what a guest's frame would")]
    let last = || unsafe { &mut *top.sub(1) };
    *last() = 7;
    drop(first);
    let again = stacks.new_stack(size, false).expect("there is room");
    assert_eq!(again.top(), top);
    drop(again);
    let cleared = stacks.new_stack(size, true).expect("there is room");
    assert_eq!((cleared.top(), *last()), (top, 0));
}
