//! Proof words: four words that two ends of an introduction have in common, and that nobody between them has.
//!
//! Words of BIP-39's English list, which was made to be read aloud and typed: no two begin with the same four letters.
//! Four of 2,048 are 44 bits. Whoever stands between commits to a nonce before it sees the other side's, so that it has
//! one guess an introduction and can't search: one of 2^44 rogue introductions would show the words that are wanted.

use std::fmt;
use std::str::FromStr;

use base::Digest;
use bip39::Language;

const WORDS: usize = 4;
const BITS_A_WORD: u32 = 11;

/// Four words of the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProofWords([u16; WORDS]);

/// Text that is not four proof words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofWordsError {
    #[error("proof words are {WORDS} words, as the box's console shows them, and here are {0}")]
    Count(usize),
    #[error("`{0}` is none of the words that boxes use: look at the console once more")]
    Unknown(String),
}

impl ProofWords {
    /// The first 44 bits of a transcript's digest.
    #[must_use]
    pub fn of(transcript: &Digest) -> Self {
        let (first, _) = transcript.as_bytes().split_at(8);
        let bits = u64::from_be_bytes(first.try_into().expect("eight bytes"));
        let word = |number: u32| {
            let shifted = bits >> (u64::BITS - BITS_A_WORD * (number + 1));
            u16::try_from(shifted & ((1 << BITS_A_WORD) - 1)).expect("eleven bits")
        };
        Self([word(0), word(1), word(2), word(3)])
    }
}

impl fmt::Display for ProofWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = Language::English.word_list();
        let words = self.0.map(|number| list[usize::from(number)]);
        f.pad(&words.join(" "))
    }
}

impl fmt::Debug for ProofWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProofWords({self})")
    }
}

impl FromStr for ProofWords {
    type Err = ProofWordsError;

    /// Words between spaces, commas or hyphens, in any case; the first four letters of each are enough.
    fn from_str(text: &str) -> Result<Self, ProofWordsError> {
        let said: Vec<_> = text.split([' ', ',', '-', '\t', '\n']).filter(|word| !word.is_empty()).collect();
        let said: [&str; WORDS] = said.try_into().map_err(|said: Vec<_>| ProofWordsError::Count(said.len()))?;
        let mut words = [0; WORDS];
        for (word, said) in words.iter_mut().zip(said) {
            *word = number_of(&said.to_lowercase())
                .ok_or_else(|| ProofWordsError::Unknown(said.chars().take(40).collect()))?;
        }
        Ok(Self(words))
    }
}

fn number_of(word: &str) -> Option<u16> {
    let list = Language::English.word_list();
    let found = list.binary_search(&word).ok().or_else(|| {
        let only = list.iter().position(|known| word.len() == 4 && known.starts_with(word))?;
        Some(only)
    });
    found.and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_as_they_were_written() {
        for seed in 0..200_u8 {
            let words = ProofWords::of(&Digest::of(&[seed]));
            assert_eq!(words.to_string().parse(), Ok(words));
            assert_eq!(words.to_string().to_uppercase().replace(' ', "-").parse(), Ok(words));
            let short: Vec<_> =
                words.to_string().split(' ').map(|word| word.chars().take(4).collect::<String>()).collect();
            assert_eq!(short.join(" ").parse(), Ok(words));
        }
    }

    #[test]
    fn other_text_is_told_from_words() {
        assert_eq!("".parse::<ProofWords>(), Err(ProofWordsError::Count(0)));
        assert_eq!("river candy fabric orbit zoo".parse::<ProofWords>(), Err(ProofWordsError::Count(5)));
        assert_eq!("river candle dog q".parse::<ProofWords>(), Err(ProofWordsError::Unknown("candle".to_owned())));
        assert!("riv can dog orb".parse::<ProofWords>().is_err(), "three letters are not enough");
    }

    #[test]
    fn every_bit_of_the_first_44_counts_and_no_other() {
        let base = [0x5a_u8; 32];
        let words = |bytes: [u8; 32]| ProofWords::of(&Digest::from_bytes(bytes));
        for bit in 0..64 {
            let mut other = base;
            other[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(words(other) != words(base), bit < 44, "bit {bit}");
        }
    }
}
