//! Values under keys that stay theirs: the list of a pool's tasks.

use std::mem;
use std::num::NonZeroU32;

use crate::scope::TaskKey;

/// How many entries an empty slab keeps room for; it gives back what it has beyond that.
const KEPT: usize = 64;

/// Values, each under a key that no other value ever gets: an index that is used again, and a generation that is not.
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// The vacant entry that is taken next; if there is none, one past the end.
    next: u32,
    len: usize,
    /// Counts the values that have been inserted. It begins again after 2³² of them.
    generation: NonZeroU32,
}

enum Entry<T> {
    Occupied {
        generation: NonZeroU32,
        value: T,
    },
    /// With the vacant entry after it.
    Vacant {
        next: u32,
    },
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), next: 0, len: 0, generation: NonZeroU32::MIN }
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a value in.
    pub(super) fn insert(&mut self, value: T) -> TaskKey {
        let key = TaskKey { index: self.next, generation: self.generation };
        let occupied = Entry::Occupied { generation: key.generation, value };
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.len += 1;
        match self.entries.get_mut(key.index as usize) {
            Some(entry) => {
                if let Entry::Vacant { next } = mem::replace(entry, occupied) {
                    self.next = next;
                }
            }
            None => {
                self.entries.push(occupied);
                self.next = key.index.checked_add(1).expect("2³² tasks do not fit into memory");
            }
        }
        key
    }

    /// The value under a key, as long as it is there.
    pub(super) fn get_mut(&mut self, key: TaskKey) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize)? {
            Entry::Occupied { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Gives a value back, if it is still there.
    pub(super) fn remove(&mut self, key: TaskKey) -> Option<T> {
        self.get_mut(key)?;
        let entry = mem::replace(&mut self.entries[key.index as usize], Entry::Vacant { next: self.next });
        self.next = key.index;
        self.len -= 1;
        if self.len == 0 && self.entries.len() > KEPT {
            // The generations go on, so that no key comes twice.
            *self = Self { generation: self.generation, ..Self::new() };
        }
        match entry {
            Entry::Occupied { value, .. } => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    /// All values with their keys, in the order of their entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskKey, &T)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| match entry {
            Entry::Occupied { generation, value } => Some((TaskKey { index, generation: *generation }, value)),
            Entry::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(keys: &[TaskKey]) -> Vec<u32> {
        keys.iter().map(|key| key.index).collect()
    }

    #[test]
    fn vacant_entries_are_used_again_and_not_mistaken() {
        let mut slab = Slab::new();
        let keys: Vec<_> = "abcdef".chars().map(|name| slab.insert(name)).collect();
        assert_eq!(indices(&keys), [0, 1, 2, 3, 4, 5]);
        assert_eq!([1, 4, 4].map(|key| slab.remove(keys[key])), [Some('b'), Some('e'), None]);
        let more: Vec<_> = "ghi".chars().map(|name| slab.insert(name)).collect();
        assert_eq!(indices(&more), [4, 1, 6]);
        assert_eq!(slab.iter().map(|(_, name)| name).collect::<String>(), "ahcdgfi");
        assert_eq!((slab.len, slab.remove(keys[4]), slab.get_mut(keys[1])), (7, None, None));
        assert_eq!(slab.get_mut(more[1]), Some(&mut 'h'));
    }

    #[test]
    fn a_key_is_never_given_twice_although_memory_was_given_back() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..100).map(|n| slab.insert(n)).collect();
        keys.iter().for_each(|key| assert!(slab.remove(*key).is_some()));
        let later = slab.insert(100);
        assert_eq!((later.index, slab.remove(keys[0]), slab.remove(later)), (0, None, Some(100)));
    }

    #[test]
    fn an_empty_slab_has_given_its_memory_back() {
        let mut slab = Slab::new();
        for _ in 0..2 {
            let keys: Vec<_> = (0..10_000).map(|n| slab.insert(n)).collect();
            for (n, key) in keys.into_iter().enumerate() {
                assert_eq!(slab.remove(key), Some(n));
            }
            assert!(slab.entries.capacity() <= KEPT && slab.len == 0, "{} entries kept", slab.entries.capacity());
        }
    }
}
