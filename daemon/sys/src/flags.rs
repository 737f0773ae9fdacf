//! Sets of kernel flags as types of their own, so that one kind cannot be passed for another.

/// Defines a set over `u64` with named members.
macro_rules! flag_set {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $($(#[$member_doc:meta])* $member:ident = $value:expr;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The empty set.
            pub const NONE: Self = Self(0);

            $($(#[$member_doc])* pub const $member: Self = Self($value as u64);)*

            /// The set with these bits, known or not.
            #[must_use]
            pub const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            /// The kernel's bits.
            #[must_use]
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// The members of both.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The members that are not in `other`.
            #[must_use]
            pub const fn difference(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether all of `other` are in it.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any of `other` is in it.
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                *self = self.union(other);
            }
        }
    };
}

pub(crate) use flag_set;
