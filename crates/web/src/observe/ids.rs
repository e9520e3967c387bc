//! Numbers that nobody can guess, cheap enough for every request: request ids, span ids, trace ids.
//!
//! They come from BLAKE3's output stream under a random key a core: 64 bytes a block, so a system call a start and one
//! compression for eight requests. A counter would tell whoever asks twice how many requests came between, which is
//! none of a neighbour's business.

use std::cell::RefCell;
use std::sync::Arc;

use blake3::{Hasher, OutputReader};

/// What one core draws from.
pub(crate) struct Ids(RefCell<Stream>);

struct Stream {
    reader: OutputReader,
    block: [u8; 64],
    used: usize,
}

/// A request's id, as a number and as its log lines and its answer have it. Never zero.
#[derive(Clone)]
pub(crate) struct RequestId {
    pub number: u64,
    pub text: Arc<str>,
}

impl Ids {
    /// Draws the key from the system.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self::keyed(&crate::cloud::random()?))
    }

    fn keyed(key: &[u8; 32]) -> Self {
        let reader = Hasher::new_keyed(key).finalize_xof();
        Self(RefCell::new(Stream { reader, block: [0; 64], used: 64 }))
    }

    /// A number that isn't zero.
    pub(crate) fn draw(&self) -> u64 {
        let mut stream = self.0.borrow_mut();
        loop {
            let Stream { reader, block, used } = &mut *stream;
            if *used == block.len() {
                reader.fill(block);
                *used = 0;
            }
            let (bytes, _) = block[*used..].split_first_chunk::<8>().expect("64 is a multiple of 8");
            let number = u64::from_le_bytes(*bytes);
            *used += 8;
            if number != 0 {
                return number;
            }
        }
    }

    pub(crate) fn request(&self) -> RequestId {
        let number = self.draw();
        let digits = hex(number);
        let text = std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
        RequestId { number, text: text.into() }
    }

    pub(crate) fn trace(&self) -> u128 {
        u128::from(self.draw()) << 64 | u128::from(self.draw())
    }
}

/// Sixteen digits, without going through the formatter: it is once a request.
fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (digit, shift) in digits.iter_mut().zip((0..64).step_by(4).rev()) {
        *digit = b"0123456789abcdef"[usize::try_from(number >> shift & 0xf).expect("four bits")];
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
        let id = ids.request();
        assert_eq!(*id.text, format!("{:016x}", id.number));
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
