//! A list whose entries leave it by themselves, each in constant time.

use std::mem;
use std::num::NonZeroU32;

use crate::scope::TaskKey;

/// Members, each on a key that it keeps until it leaves. Seats that go free are occupied again.
///
/// It is what the crate `slab` has, but that the first seats need no memory of their own, since most pools are small,
/// and that who has left is not mistaken for who came after.
pub(super) struct Slab<T> {
    first: [Entry<T>; FIRST],
    others: Vec<Entry<T>>,
    /// The entry to be occupied next: the first of a chain of free ones, or one more than there are.
    next: u32,
    len: usize,
    generation: NonZeroU32,
}

enum Entry<T> {
    Occupied {
        generation: NonZeroU32,
        value: T,
    },
    Vacant {
        /// What is to be occupied next when this has been.
        next: u32,
    },
}

const FIRST: usize = 4;

/// How many other capacity an empty slab may keep.
const KEPT: usize = 64;

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        let first = [
            Entry::Vacant { next: 1 },
            Entry::Vacant { next: 2 },
            Entry::Vacant { next: 3 },
            Entry::Vacant { next: 4 },
        ];
        Self { first, others: Vec::new(), next: 0, len: 0, generation: NonZeroU32::MIN }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a key.
    #[inline]
    pub(super) fn insert(&mut self, value: T) -> TaskKey {
        let key = TaskKey { index: self.next, generation: self.generation };
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.len += 1;
        let occupied = Entry::Occupied { generation: key.generation, value };
        match self.entry_mut(key.index) {
            Some(free) => {
                if let Entry::Vacant { next } = mem::replace(free, occupied) {
                    self.next = next;
                }
            }
            None => {
                self.others.push(occupied);
                self.next = key.index.checked_add(1).expect("2³² tasks do not fit into memory");
            }
        }
        key
    }

    /// The entry with an index, whoever has it.
    #[inline]
    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry<T>> {
        let index = index as usize;
        if index < FIRST { self.first.get_mut(index) } else { self.others.get_mut(index - FIRST) }
    }

    /// The entry of a key that was not left.
    #[inline]
    fn occupied_mut(&mut self, key: TaskKey) -> Option<&mut Entry<T>> {
        self.entry_mut(key.index)
            .filter(|entry| matches!(entry, Entry::Occupied { generation, .. } if *generation == key.generation))
    }

    /// Who has a key, if it was not left.
    #[inline]
    pub(super) fn get_mut(&mut self, key: TaskKey) -> Option<&mut T> {
        match self.occupied_mut(key)? {
            Entry::Occupied { value, .. } => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    /// Leaves a key; the last to leave gives the memory back.
    #[inline]
    pub(super) fn remove(&mut self, key: TaskKey) -> Option<T> {
        let next = self.next;
        let left = mem::replace(self.occupied_mut(key)?, Entry::Vacant { next });
        self.next = key.index;
        self.len -= 1;
        if self.len == 0 && self.others.len() > KEPT {
            // The turns go on.
            *self = Self { generation: self.generation, ..Self::new() };
        }
        match left {
            Entry::Occupied { value, .. } => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskKey, &T)> {
        (0..).zip(self.first.iter().chain(&self.others)).filter_map(|(index, entry)| match entry {
            Entry::Occupied { generation, value } => Some((TaskKey { index, generation: *generation }, value)),
            Entry::Vacant { .. } => None,
        })
    }

    /// How many capacity there are, occupied and free.
    pub(super) fn capacity(&self) -> u32 {
        // An index fits into 32 bits.
        (FIRST + self.others.len()) as u32
    }

    /// The entries on so many capacity from an index on.
    pub(super) fn range(&mut self, index: u32, capacity: u32) -> impl Iterator<Item = &mut T> {
        let (first, others) = (self.first.iter_mut(), self.others.iter_mut());
        let first = first.skip(index as usize);
        let others = others.skip((index as usize).saturating_sub(FIRST));
        first.chain(others).take(capacity as usize).filter_map(|entry| match entry {
            Entry::Occupied { value, .. } => Some(value),
            Entry::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(seats: &[TaskKey]) -> Vec<u32> {
        seats.iter().map(|key| key.index).collect()
    }

    #[test]
    fn free_seats_are_taken_again_and_not_mistaken() {
        let mut slab = Slab::new();
        let seats: Vec<_> = "abcdef".chars().map(|name| slab.insert(name)).collect();
        assert_eq!(indices(&seats), [0, 1, 2, 3, 4, 5]);
        assert_eq!([1, 4, 4].map(|key| slab.remove(seats[key])), [Some('b'), Some('e'), None]);
        let more: Vec<_> = "ghi".chars().map(|name| slab.insert(name)).collect();
        assert_eq!(indices(&more), [4, 1, 6]);
        assert_eq!(slab.iter().map(|(_, name)| name).collect::<String>(), "ahcdgfi");
        assert_eq!((slab.len(), slab.remove(seats[4]), slab.get_mut(seats[1])), (7, None, None));
        assert_eq!(slab.get_mut(more[1]), Some(&mut 'h'));
        for (index, capacity, expected) in [(0, 3, "ahc"), (3, 9, "dgfi"), (3, 2, "dg"), (5, 1, "f"), (7, 9, "")] {
            assert_eq!(slab.range(index, capacity).map(|name| *name).collect::<String>(), expected);
        }
        assert_eq!(slab.capacity(), 7);
    }

    #[test]
    fn who_has_left_is_not_mistaken_for_who_comes_after_the_memory_was_given_back() {
        let mut slab = Slab::new();
        let seats: Vec<_> = (0..100).map(|n| slab.insert(n)).collect();
        seats.iter().for_each(|key| assert!(slab.remove(*key).is_some()));
        let later = slab.insert(100);
        assert_eq!((later.index, slab.remove(seats[0]), slab.remove(later)), (0, None, Some(100)));
    }

    #[test]
    fn an_empty_roster_has_given_its_memory_back() {
        let mut slab = Slab::new();
        for _ in 0..2 {
            let seats: Vec<_> = (0..10_000).map(|n| slab.insert(n)).collect();
            assert_eq!(seats.last().map(|key| key.index), Some(9_999));
            for (n, key) in seats.into_iter().enumerate() {
                assert_eq!(slab.remove(key), Some(n));
            }
            assert!(slab.others.capacity() <= KEPT && slab.len() == 0);
        }
    }
}
