//! Random numbers, accounts and emails that depend on the seed alone.

use std::io::Write;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::names::{DOMAINS, FIRST_NAMES, LAST_NAMES};

/// Random numbers of one seed for one purpose, so that what one of them takes does not move another.
pub struct Random(ChaCha8Rng);

impl Random {
    /// `purpose` has at most 24 bytes.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..8 + purpose.len()].copy_from_slice(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number below `bound`, each as likely as the next up to `bound / 2^64`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// For each of `all` in turn whether it is chosen, `wanted` of them in the end, every choice as likely as another
    /// (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S).
    pub fn choose(mut self, mut wanted: u64, all: u64) -> impl Iterator<Item = bool> {
        (0..all).map(move |seen| {
            let chosen = self.below(all - seen) < wanted;
            wanted -= u64::from(chosen);
            chosen
        })
    }
}

/// The accounts of a seed, ascending.
pub fn accounts(seed: u64) -> impl Iterator<Item = u32> {
    let mut random = Random::new(seed, "accounts");
    let next = move |account: &u32| Some(account + 1 + random.below(5) as u32).filter(|next| *next <= 1_999_999);
    std::iter::successors(Some(1_000_000), next)
}

/// Emails by number: a number has one email, and no two have the same. That of account `n` of [`accounts`] is `n`.
pub struct Emails {
    first_names: Vec<&'static str>,
    last_names: Vec<&'static str>,
    domains: Vec<&'static str>,
    keys: [u64; 4],
}

/// Names, domain and form take 24 bits: 8 + 8 + 6 + 2.
const BITS: u32 = 24;
const HALF: u32 = BITS / 2;

impl Emails {
    /// The first number that no account has.
    pub const STRANGERS: u64 = 1 << 20;

    /// How many strangers there may be.
    pub const MOST: u64 = 1_000_000_000;

    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "emails");
        Self {
            first_names: FIRST_NAMES.split_whitespace().collect(),
            last_names: LAST_NAMES.split_whitespace().collect(),
            domains: DOMAINS.split_whitespace().collect(),
            keys: [(); 4].map(|()| random.0.next_u64()),
        }
    }

    /// Appends the email of `number`, which is below 900 · 2^24.
    ///
    /// The low bits choose names, domain and form. From 2^24 on three digits tell apart what they leave alike; the one
    /// form that has digits of its own has two, so no email can be read in two ways.
    pub fn append(&self, number: u64, out: &mut Vec<u8>) {
        let choice = self.shuffle((number & ((1 << BITS) - 1)) as u32) as usize;
        let (first, last) = (choice & 0xff, choice >> 8 & 0xff);
        let (domain, form) = (choice >> 16 & 0x3f, choice >> 22);
        out.extend_from_slice(self.first_names[first].as_bytes());
        out.push([b'.', b'_', b'-', b'.'][form]);
        out.extend_from_slice(self.last_names[last].as_bytes());
        // Writing to a Vec does not fail
        if form == 3 {
            let _ = write!(out, "{}", 50 + (first + last + domain) % 50);
        }
        if number >> BITS > 0 {
            let _ = write!(out, "{}", 99 + (number >> BITS));
        }
        out.push(b'@');
        out.extend_from_slice(self.domains[domain].as_bytes());
    }

    /// A permutation of the numbers below 2^24: a Feistel network, which is one whatever its round function is.
    fn shuffle(&self, number: u32) -> u32 {
        const MASK: u32 = (1 << HALF) - 1;
        let (mut left, mut right) = (number >> HALF, number & MASK);
        for key in self.keys {
            let mixed = (u64::from(right) ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (left, right) = (right, left ^ (mixed as u32 & MASK));
        }
        left << HALF | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_tables_fill_their_bits_with_different_words() {
        for (table, size) in [(FIRST_NAMES, 256), (LAST_NAMES, 256), (DOMAINS, 64)] {
            let words: HashSet<&str> = table.split_whitespace().collect();
            assert_eq!((words.len(), table.split_whitespace().count()), (size, size));
            assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b"-.".contains(&b))));
        }
        assert!(!FIRST_NAMES.contains(['-', '.']) && !LAST_NAMES.contains(['-', '.']));
    }

    #[test]
    fn no_two_numbers_share_an_email() {
        let emails = Emails::new(3);
        let numbers = (0..200_000).chain(1 << 24..(1 << 24) + 200_000).chain(100 << 24..(100 << 24) + 200_000);
        let mut seen = HashSet::new();
        for number in numbers {
            let mut email = Vec::new();
            emails.append(number, &mut email);
            assert!(seen.insert(email), "{number}");
        }
    }

    #[test]
    fn a_choice_is_exact() {
        for (wanted, all) in [(0, 10), (3, 10), (10, 10), (0, 0), (500, 1000)] {
            assert_eq!(Random::new(1, "x").choose(wanted, all).filter(|chosen| *chosen).count() as u64, wanted);
        }
    }
}
