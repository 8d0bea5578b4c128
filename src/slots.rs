//! Where the items of a group are kept until all are there: vectors, arrays, and tuples of up to eight.
//!
//! `try_all` and `wait_all` yield their results in the shape of their input. The branches end in any order, so that
//! each result is put at its class, by its index in a vector or an array. The parts of a tuple differ in type: there an
//! item is a [`Choice`], which says by its variant where it belongs.

use std::convert::Infallible;

/// A class for each item, whatever its index and its type.
pub trait Slots {
    /// Any one item.
    type Item: Send + 'static;

    /// Puts an item at its class. A tuple goes by the item itself.
    fn put(&mut self, index: usize, item: Self::Item);
}

impl<T: Send + Unpin + 'static> Slots for Vec<T> {
    type Item = T;

    fn put(&mut self, index: usize, item: T) {
        self[index] = item;
    }
}

impl<T: Send + Unpin + 'static, const N: usize> Slots for [T; N] {
    type Item = T;

    fn put(&mut self, index: usize, item: T) {
        self[index] = item;
    }
}

/// An item of a tuple. The parts that a shorter tuple does not have are of a type without values.
#[derive(Debug)]
pub enum Choice<
    A,
    B = Infallible,
    C = Infallible,
    D = Infallible,
    E = Infallible,
    F = Infallible,
    G = Infallible,
    H = Infallible,
> {
    A(A),
    B(B),
    C(C),
    D(D),
    E(E),
    F(F),
    G(G),
    H(H),
}

macro_rules! tuple_slots {
    ($($T:ident $n:tt),+) => {
        impl<$($T: Send + Unpin + 'static),+> Slots for ($($T,)+) {
            type Item = Choice<$($T),+>;

            fn put(&mut self, _: usize, item: Self::Item) {
                match item {
                    $(Choice::$T(item) => self.$n = item,)+
                }
            }
        }
    };
}

/// Calls a macro for each tuple, with the letter and the position of each part.
macro_rules! for_tuples {
    ($call:ident) => {
        $call!(A 0);
        $call!(A 0, B 1);
        $call!(A 0, B 1, C 2);
        $call!(A 0, B 1, C 2, D 3);
        $call!(A 0, B 1, C 2, D 3, E 4);
        $call!(A 0, B 1, C 2, D 3, E 4, F 5);
        $call!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
        $call!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
    };
}
pub(crate) use for_tuples;

for_tuples!(tuple_slots);
