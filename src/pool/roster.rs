//! A list whose members leave it by themselves, each in constant time.

use std::mem;
use std::num::NonZeroU32;

use crate::scope::Seat;

/// Members, each on a seat that it keeps until it leaves. Seats that go free are taken again.
///
/// It is what the crate `slab` has, but that the first seats need no memory of their own, since most pools are small,
/// and that who has left is not mistaken for who came after.
pub(super) struct Roster<T> {
    first: [Chair<T>; FIRST],
    others: Vec<Chair<T>>,
    /// The chair to be taken next: the first of a chain of free ones, or one more than there are.
    next: u32,
    len: usize,
    turn: NonZeroU32,
}

enum Chair<T> {
    Taken {
        turn: NonZeroU32,
        member: T,
    },
    Free {
        /// What is to be taken next when this has been.
        next: u32,
    },
}

const FIRST: usize = 4;

/// How many other chairs an empty roster may keep.
const KEPT: usize = 64;

impl<T> Roster<T> {
    pub(super) const fn new() -> Self {
        let first =
            [Chair::Free { next: 1 }, Chair::Free { next: 2 }, Chair::Free { next: 3 }, Chair::Free { next: 4 }];
        Self { first, others: Vec::new(), next: 0, len: 0, turn: NonZeroU32::MIN }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a seat.
    #[inline]
    pub(super) fn enter(&mut self, member: T) -> Seat {
        let seat = Seat { index: self.next, turn: self.turn };
        self.turn = self.turn.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.len += 1;
        let taken = Chair::Taken { turn: seat.turn, member };
        match self.chair_mut(seat.index) {
            Some(free) => {
                if let Chair::Free { next } = mem::replace(free, taken) {
                    self.next = next;
                }
            }
            None => {
                self.others.push(taken);
                self.next = seat.index.checked_add(1).expect("2³² tasks do not fit into memory");
            }
        }
        seat
    }

    /// The chair with an index, whoever has it.
    #[inline]
    fn chair_mut(&mut self, index: u32) -> Option<&mut Chair<T>> {
        let index = index as usize;
        if index < FIRST { self.first.get_mut(index) } else { self.others.get_mut(index - FIRST) }
    }

    /// The chair of a seat that was not left.
    #[inline]
    fn taken_mut(&mut self, seat: Seat) -> Option<&mut Chair<T>> {
        self.chair_mut(seat.index).filter(|chair| matches!(chair, Chair::Taken { turn, .. } if *turn == seat.turn))
    }

    /// Who has a seat, if it was not left.
    #[inline]
    pub(super) fn get_mut(&mut self, seat: Seat) -> Option<&mut T> {
        match self.taken_mut(seat)? {
            Chair::Taken { member, .. } => Some(member),
            Chair::Free { .. } => None,
        }
    }

    /// Leaves a seat; the last to leave gives the memory back.
    #[inline]
    pub(super) fn leave(&mut self, seat: Seat) -> Option<T> {
        let next = self.next;
        let left = mem::replace(self.taken_mut(seat)?, Chair::Free { next });
        self.next = seat.index;
        self.len -= 1;
        if self.len == 0 && self.others.len() > KEPT {
            // The turns go on.
            *self = Self { turn: self.turn, ..Self::new() };
        }
        match left {
            Chair::Taken { member, .. } => Some(member),
            Chair::Free { .. } => None,
        }
    }

    /// All members, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seat, &T)> {
        (0..).zip(self.first.iter().chain(&self.others)).filter_map(|(index, chair)| match chair {
            Chair::Taken { turn, member } => Some((Seat { index, turn: *turn }, member)),
            Chair::Free { .. } => None,
        })
    }

    /// How many chairs there are, taken and free.
    pub(super) fn chairs(&self) -> u32 {
        // An index fits into 32 bits.
        (FIRST + self.others.len()) as u32
    }

    /// The members on so many chairs from an index on.
    pub(super) fn range(&mut self, index: u32, chairs: u32) -> impl Iterator<Item = &mut T> {
        let (first, others) = (self.first.iter_mut(), self.others.iter_mut());
        let first = first.skip(index as usize);
        let others = others.skip((index as usize).saturating_sub(FIRST));
        first.chain(others).take(chairs as usize).filter_map(|chair| match chair {
            Chair::Taken { member, .. } => Some(member),
            Chair::Free { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(seats: &[Seat]) -> Vec<u32> {
        seats.iter().map(|seat| seat.index).collect()
    }

    #[test]
    fn free_seats_are_taken_again_and_not_mistaken() {
        let mut roster = Roster::new();
        let seats: Vec<_> = "abcdef".chars().map(|name| roster.enter(name)).collect();
        assert_eq!(indices(&seats), [0, 1, 2, 3, 4, 5]);
        assert_eq!([1, 4, 4].map(|seat| roster.leave(seats[seat])), [Some('b'), Some('e'), None]);
        let more: Vec<_> = "ghi".chars().map(|name| roster.enter(name)).collect();
        assert_eq!(indices(&more), [4, 1, 6]);
        assert_eq!(roster.iter().map(|(_, name)| name).collect::<String>(), "ahcdgfi");
        assert_eq!((roster.len(), roster.leave(seats[4]), roster.get_mut(seats[1])), (7, None, None));
        assert_eq!(roster.get_mut(more[1]), Some(&mut 'h'));
        for (index, chairs, expected) in [(0, 3, "ahc"), (3, 9, "dgfi"), (3, 2, "dg"), (5, 1, "f"), (7, 9, "")] {
            assert_eq!(roster.range(index, chairs).map(|name| *name).collect::<String>(), expected);
        }
        assert_eq!(roster.chairs(), 7);
    }

    #[test]
    fn who_has_left_is_not_mistaken_for_who_comes_after_the_memory_was_given_back() {
        let mut roster = Roster::new();
        let seats: Vec<_> = (0..100).map(|n| roster.enter(n)).collect();
        seats.iter().for_each(|seat| assert!(roster.leave(*seat).is_some()));
        let later = roster.enter(100);
        assert_eq!((later.index, roster.leave(seats[0]), roster.leave(later)), (0, None, Some(100)));
    }

    #[test]
    fn an_empty_roster_has_given_its_memory_back() {
        let mut roster = Roster::new();
        for _ in 0..2 {
            let seats: Vec<_> = (0..10_000).map(|n| roster.enter(n)).collect();
            assert_eq!(seats.last().map(|seat| seat.index), Some(9_999));
            for (n, seat) in seats.into_iter().enumerate() {
                assert_eq!(roster.leave(seat), Some(n));
            }
            assert!(roster.others.capacity() <= KEPT && roster.len() == 0);
        }
    }
}
