//! What a memory holds at first.
//!
//! wasmtime copies the data segments of a module into each instance's memory. Here they are laid out once, when the
//! component is compiled, as the memory has them, and mapped into each instance: what a guest doesn't write to is shared,
//! and what it wrote to is put back from there (`crate::memory`).
//!
//! A memory whose content was taken out is marked by its maximum, which no memory comes near: that is how it is known
//! again when an instance is made.

use base::limits::{GUEST_CONTENTS_MAX, INSTANCE_MEMORY_MAX};
use wasmparser::{Data, DataKind, MemoryType, Operator, Parser, Payload, TypeRef};

use super::Damage;

/// Bytes of a page of WebAssembly. No machine has larger ones of its own that it maps by.
pub(crate) const PAGE_BYTES: u64 = 64 << 10;

/// Pages beyond what any memory may have.
const MARK: u64 = 2 * INSTANCE_MEMORY_MAX / PAGE_BYTES;

const _: () = assert!(MARK + (GUEST_CONTENTS_MAX as u64) < 65_536, "a maximum of 32 bits' memory");

/// Of the memory that has this maximum, in bytes: the number of its first content.
pub(crate) fn marked(maximum: u64) -> Option<usize> {
    let number = (maximum / PAGE_BYTES).checked_sub(MARK)?;
    usize::try_from(number).ok().filter(|number| *number < GUEST_CONTENTS_MAX)
}

/// What a memory holds at first, from its first page that isn't empty to its last.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::compile) struct FirstContent {
    number: usize,
    /// Where it begins in the memory.
    pub(in crate::compile) start: u64,
    /// Whole pages.
    pub(in crate::compile) bytes: Vec<u8>,
}

impl FirstContent {
    /// That of a module, if it can be told without running it, and there is any. So many before had one, and left so much
    /// slack.
    pub(super) fn of(wasm: &[u8], before: usize, slack: &mut u64) -> Result<Option<Self>, Damage> {
        let (mut memories, mut segments) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        if matches!(import?.ty, TypeRef::Memory(_)) {
                            return Ok(None);
                        }
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        memories.push(memory?);
                    }
                }
                Payload::DataSection(section) => {
                    for segment in section {
                        let segment = segment?;
                        if is_active(&segment) {
                            let Some(offset) = offset(&segment)? else { return Ok(None) };
                            segments.push((offset, segment.data));
                        }
                    }
                }
                _ => {}
            }
        }
        let [memory] = memories[..] else { return Ok(None) };
        if before >= GUEST_CONTENTS_MAX || !can_be_marked(&memory) {
            return Ok(None);
        }
        Ok(laid_out(&segments, memory.initial * PAGE_BYTES, slack).map(|(start, bytes)| Self {
            number: before,
            start,
            bytes,
        }))
    }

    /// The maximum of its memory, in pages.
    pub(super) fn mark(&self) -> u64 {
        MARK + self.number as u64
    }
}

/// Is it copied into the memory by itself?
pub(super) fn is_active(segment: &Data<'_>) -> bool {
    matches!(segment.kind, DataKind::Active { .. })
}

/// Where an active segment is copied to, if that stands there.
fn offset(segment: &Data<'_>) -> Result<Option<u64>, Damage> {
    let DataKind::Active { memory_index: 0, offset_expr } = &segment.kind else { return Ok(None) };
    let mut operators = offset_expr.get_operators_reader();
    let Operator::I32Const { value } = operators.read()? else { return Ok(None) };
    let at = u64::from(value.cast_unsigned());
    Ok(matches!(operators.read()?, Operator::End).then_some(at))
}

/// Past all marks.
const MARKS_END: u64 = MARK + GUEST_CONTENTS_MAX as u64;

/// A maximum that stands there is never raised: another module of the component may take the memory as one that has none
/// larger.
fn can_be_marked(memory: &MemoryType) -> bool {
    let plain = !memory.memory64 && !memory.shared && memory.page_size_log2.is_none();
    plain && memory.initial < MARK && memory.maximum.is_none_or(|maximum| maximum >= MARKS_END)
}

/// Does it have a maximum by which it would be taken for one whose content was taken out? 2 GiB is what some compilers write.
pub(super) fn is_mistakable(memory: &MemoryType) -> bool {
    memory.maximum.is_some_and(|maximum| unmistakable(memory.initial, maximum) != maximum)
}

/// A maximum in place of one that a mark has, out of reach as well, and no larger unless the memory is.
pub(super) fn unmistakable(initial: u64, maximum: u64) -> u64 {
    match maximum {
        MARK..MARKS_END if initial < MARK => MARK - 1,
        MARK..MARKS_END => MARKS_END,
        _ => maximum,
    }
}

/// The segments as a memory of so many bytes has them when all have been copied.
fn laid_out(segments: &[(u64, &[u8])], memory: u64, slack: &mut u64) -> Option<(u64, Vec<u8>)> {
    let filled = segments.iter().filter(|(_, data)| !data.is_empty());
    let ends = |(at, data): &(u64, &[u8])| at + data.len() as u64;
    // Where one doesn't fit, an instance can't be made: it is left to wasmtime to say so. An empty one may be out of bounds
    // too.
    if segments.iter().any(|segment| ends(segment) > memory) {
        return None;
    }
    let start = filled.clone().map(|(at, _)| *at).min()? / PAGE_BYTES * PAGE_BYTES;
    let end = filled.clone().map(ends).max()?.next_multiple_of(PAGE_BYTES);
    let bytes: u64 = filled.clone().map(|(_, data)| data.len() as u64).sum();
    // A byte at each end of a large memory would make a large file of nothing.
    *slack = slack.checked_sub((end - start).saturating_sub(4 * bytes))?;
    let mut content = vec![0; usize::try_from(end - start).ok()?];
    for (at, data) in filled {
        let at = usize::try_from(at - start).ok()?;
        content[at..at + data.len()].copy_from_slice(data);
    }
    Some((start, content))
}

#[cfg(test)]
mod tests {
    use super::super::rewrite;
    use super::*;

    fn content(module: &str) -> Option<FirstContent> {
        let wasm = wat::parse_str(format!("(component (core module {module}))")).expect("it is well formed");
        let rewritten = rewrite(&wasm).expect("it is well formed");
        assert_eq!(rewritten.contents.is_empty(), rewritten.wasm == wasm);
        rewritten.contents.into_iter().next()
    }

    #[test]
    fn segments_are_laid_out_in_their_order() {
        let found = content(
            r#"(memory 4) (data (i32.const 131071) "abc") (data "passive") (data (i32.const 131072) "B")
               (data (i32.const 262144) "")"#,
        );
        let found = found.expect("it can be told");
        assert_eq!((found.start, found.bytes.len()), (65_536, 131_072));
        assert_eq!(&found.bytes[65_535..65_539], b"aBc\0");
        assert_eq!(marked(found.mark() * PAGE_BYTES), Some(0));
    }

    #[test]
    fn what_must_be_computed_or_can_t_be_marked_is_left_alone() {
        for module in [
            r#"(import "" "at" (global i32)) (memory 1) (data (global.get 0) "x")"#,
            r#"(import "" "memory" (memory 1)) (data (i32.const 0) "x")"#,
            r#"(memory 1 2) (data (i32.const 0) "x")"#,
            r#"(memory 1 32767) (data (i32.const 0) "x")"#,
            r#"(memory 1) (data (i32.const 65536) "x")"#,
            r#"(memory 16000) (data (i32.const 0) "x") (data (i32.const 1000000000) "x")"#,
            r#"(memory 1) (data "x")"#,
            r"(memory 1)",
        ] {
            assert_eq!(content(module), None, "{module}");
        }
        assert!(content(r#"(memory 1 65536) (data (i32.const 0) "x")"#).is_some(), "none comes to that maximum");
    }

    /// The maximum of the memory of a module that has no content to take out.
    fn maximum(memory: &str) -> Option<u64> {
        let wasm =
            wat::parse_str(format!("(component (core module (memory {memory}) (data \"x\")))")).expect("well formed");
        let rewritten = rewrite(&wasm).expect("it is well formed");
        Parser::new(0).parse_all(&rewritten.wasm).find_map(|payload| match payload.expect("it is well formed") {
            Payload::MemorySection(section) => section.into_iter().next().expect("it has one").expect("read").maximum,
            _ => None,
        })
    }

    #[test]
    fn no_memory_is_taken_for_one_whose_content_was_taken_out() {
        for (memory, seen) in [
            ("1", None),
            ("1 2", Some(2)),
            ("1 32767", Some(32_767)),
            // What Emscripten writes.
            ("1 32768", Some(32_767)),
            ("1 33023", Some(32_767)),
            ("1 33024", Some(33_024)),
            ("32768 32768", Some(33_024)),
            ("1 65536", Some(65_536)),
        ] {
            assert_eq!(maximum(memory), seen, "{memory}");
            assert_eq!(seen.and_then(|maximum| marked(maximum * PAGE_BYTES)), None);
        }
    }

    #[test]
    fn the_modules_of_a_component_share_what_they_may_have_for_nothing() {
        // A byte at each end of a mebibyte.
        let module = r#"(core module (memory 16) (data (i32.const 0) "x") (data (i32.const 1048575) "x"))"#;
        let wasm = wat::parse_str(format!("(component {})", module.repeat(50))).expect("it is well formed");
        assert_eq!(rewrite(&wasm).expect("it is well formed").contents.len(), 1);
    }

    #[test]
    fn each_memory_has_its_own_mark() {
        let module = r#"(core module (memory 1) (data (i32.const 0) "x"))"#;
        let wasm = wat::parse_str(format!("(component {module} (component {module}) {module})")).expect("well formed");
        let rewritten = rewrite(&wasm).expect("it is well formed");
        let marks: Vec<_> = rewritten.contents.iter().map(|content| marked(content.mark() * PAGE_BYTES)).collect();
        assert_eq!(marks, [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn no_usual_maximum_is_taken_for_a_mark() {
        for pages in [0, 1, 16_384, 65_536] {
            assert_eq!(marked(pages * PAGE_BYTES), None, "{pages}");
        }
    }
}
