//! Numbers that nobody can guess, cheap enough for every request: request ids, span ids, trace ids.
//!
//! They come from BLAKE3's output stream under a random key a core: 64 bytes a block, so a system call a start and one
//! compression for eight requests. A counter would tell whoever asks twice how many requests came between, which is
//! none of a neighbour's business. The digits of eight ids are written at once too, and lent to their requests.

use std::cell::RefCell;
use std::ops::Deref;

use blake3::{Hasher, OutputReader};
use bytes::Bytes;
use http::HeaderValue;

/// Bytes of a number.
const NUMBER_BYTES: usize = 8;
/// Its hexadecimal digits.
const DIGITS: usize = 2 * NUMBER_BYTES;
const BLOCK_BYTES: usize = 64;
const IDS_PER_BLOCK: usize = BLOCK_BYTES / NUMBER_BYTES;

/// What one core draws from.
pub(crate) struct Ids {
    numbers: RefCell<Stream>,
    written: RefCell<Written>,
}

struct Stream {
    reader: OutputReader,
    block: [u8; BLOCK_BYTES],
    used: usize,
}

/// Request ids that are ready to be given.
struct Written {
    numbers: [u64; IDS_PER_BLOCK],
    digits: Bytes,
    given: usize,
}

/// A request's id, as a number and as its log lines and its answer have it. Never zero.
#[derive(Clone)]
pub(crate) struct RequestId {
    pub number: u64,
    pub text: IdText,
}

/// Sixteen hexadecimal digits.
#[derive(Clone)]
pub(crate) struct IdText(HeaderValue);

impl IdText {
    fn lent(digits: Bytes) -> Self {
        Self(HeaderValue::from_maybe_shared(digits).expect("hexadecimal digits"))
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl Deref for IdText {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.to_str().expect("hexadecimal digits")
    }
}

impl Ids {
    /// Draws the key from the system.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self::keyed(&crate::cloud::random()?))
    }

    fn keyed(key: &[u8; 32]) -> Self {
        let reader = Hasher::new_keyed(key).finalize_xof();
        let numbers = RefCell::new(Stream { reader, block: [0; BLOCK_BYTES], used: BLOCK_BYTES });
        let written = Written { numbers: [0; IDS_PER_BLOCK], digits: Bytes::new(), given: IDS_PER_BLOCK };
        Self { numbers, written: RefCell::new(written) }
    }

    /// A number that isn't zero.
    pub(crate) fn draw(&self) -> u64 {
        let mut stream = self.numbers.borrow_mut();
        loop {
            let Stream { reader, block, used } = &mut *stream;
            if *used == block.len() {
                reader.fill(block);
                *used = 0;
            }
            let (bytes, _) = block[*used..].split_first_chunk().expect("the block is a multiple of a number");
            let number = u64::from_le_bytes(*bytes);
            *used += NUMBER_BYTES;
            if number != 0 {
                return number;
            }
        }
    }

    pub(crate) fn request(&self) -> RequestId {
        let mut written = self.written.borrow_mut();
        let Written { numbers, digits, given } = &mut *written;
        if *given == IDS_PER_BLOCK {
            numbers.fill_with(|| self.draw());
            *digits = Bytes::from(numbers.map(hex).concat());
            *given = 0;
        }
        let at = *given;
        *given += 1;
        RequestId { number: numbers[at], text: IdText::lent(digits.slice(at * DIGITS..(at + 1) * DIGITS)) }
    }

    pub(crate) fn trace(&self) -> u128 {
        u128::from(self.draw()) << 64 | u128::from(self.draw())
    }
}

/// Without going through the formatter: it is once a request.
pub(super) fn hex(number: u64) -> [u8; DIGITS] {
    const DIGIT: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; DIGITS];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = [DIGIT[usize::from(byte >> 4)], DIGIT[usize::from(byte & 0xf)]];
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_written_with_all_their_digits() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef), b"0123456789abcdef");
        assert_eq!(&hex(1), b"0000000000000001");
        let ids = Ids::keyed(&[7; 32]);
        for _ in 0..2 * IDS_PER_BLOCK {
            let id = ids.request();
            assert_eq!(*id.text, format!("{:016x}", id.number));
        }
    }

    #[test]
    fn an_id_says_nothing_about_the_next() {
        let ids = Ids::keyed(&[7; 32]);
        let drawn: Vec<u64> = (0..10_000).map(|_| ids.draw()).collect();
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
        let steps: HashSet<u64> = drawn.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        assert_eq!(steps.len(), drawn.len() - 1, "no two steps are alike");
        let ones: u32 = drawn.iter().map(|number| number.count_ones()).sum();
        assert!((310_000..330_000).contains(&ones), "{ones} of 640,000 bits are set");
        assert_ne!(Ids::keyed(&[8; 32]).draw(), drawn[0], "another core draws others");
    }
}
