//! Digests that prove that stored bytes are those that were written.
//!
//! Everything stored is sealed with keyed BLAKE3, a key for each kind of object, so that bytes of
//! one kind never pass as another kind. With a store key the digests are message authentication
//! codes: nobody without the key can make bytes that a restore accepts. Without one the keys are
//! public constants, the digests find damage, and trust comes from the workload's head, which holds
//! the manifest's digest, which covers everything else.
//!
//! A reader with a key refuses objects without one: else a writer could simply leave it out.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::{FormatError, KeyId, Object};

/// A BLAKE3 digest, or message authentication code.
pub type Digest = [u8; 32];

/// Size of a [`Digest`], in bytes.
pub const DIGEST_BYTES: usize = 32;

/// Smallest store key, in bytes.
pub const STORE_KEY_BYTES_MIN: usize = 32;

/// The secret shared by all nodes that use a store. Zeroed when dropped; never printed.
#[derive(Clone)]
pub struct StoreKey(Zeroizing<[u8; 32]>);

/// Why a store key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreKeyError {
    /// Not enough secret bytes.
    #[error("a store key of {found} bytes is too short: at least 32 random bytes are needed")]
    TooShort {
        /// Size of what was given, in bytes.
        found: usize,
    },
}

/// Makes and checks digests. Cheap to clone.
#[derive(Clone)]
pub struct Seal {
    frame: Zeroizing<[u8; 32]>,
    pack: Zeroizing<[u8; 32]>,
    manifest: Zeroizing<[u8; 32]>,
    head: Zeroizing<[u8; 32]>,
    key_id: KeyId,
}

/// Digest without a key, as stored in the byte that tells the kind of seal.
const KIND_PLAIN: u8 = 0;
/// Digest with a key.
const KIND_KEYED: u8 = 1;

impl StoreKey {
    /// The key made of a key file's content: every byte counts, a final newline too.
    ///
    /// # Errors
    ///
    /// [`StoreKeyError::TooShort`] below [`STORE_KEY_BYTES_MIN`].
    pub fn from_secret(secret: &[u8]) -> Result<Self, StoreKeyError> {
        if secret.len() < STORE_KEY_BYTES_MIN {
            return Err(StoreKeyError::TooShort {
                found: secret.len(),
            });
        }
        Ok(Self(Zeroizing::new(blake3::derive_key(
            "lifeboat.image.v1 store key",
            secret,
        ))))
    }
}

impl Seal {
    /// Seals without a key: finds damage, proves no author.
    #[must_use]
    pub fn plain() -> Self {
        Self::derived(b"", KeyId::default())
    }

    /// Seals with a store key.
    #[must_use]
    pub fn keyed(key: &StoreKey) -> Self {
        let id = blake3::derive_key("lifeboat.image.v1 key id", key.0.as_slice());
        let mut key_id = KeyId::default();
        key_id.0.copy_from_slice(&id[..8]);
        Self::derived(key.0.as_slice(), key_id)
    }

    fn derived(material: &[u8], key_id: KeyId) -> Self {
        let key = |context| Zeroizing::new(blake3::derive_key(context, material));
        Self {
            frame: key("lifeboat.image.v1 frame"),
            pack: key("lifeboat.image.v1 pack"),
            manifest: key("lifeboat.image.v1 manifest"),
            head: key("lifeboat.image.v1 head"),
            key_id,
        }
    }

    /// Whether there is a store key.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.key_id != KeyId::default()
    }

    /// Names the store key; all zero without one. Safe to print.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The digest of a frame's payload as stored.
    #[must_use]
    pub fn frame_digest(&self, payload: &[u8]) -> Digest {
        *blake3::keyed_hash(&self.frame, payload).as_bytes()
    }

    /// The byte that says which kind of seal an object has.
    pub(crate) fn kind(&self) -> u8 {
        if self.is_keyed() {
            KIND_KEYED
        } else {
            KIND_PLAIN
        }
    }

    /// The digest of an object whose bytes are the concatenation of `parts`.
    pub(crate) fn digest(&self, object: Object, parts: &[&[u8]]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(self.key(object));
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// Fails unless `digest` is that of `parts`. Takes the same time whatever differs.
    pub(crate) fn check(
        &self,
        object: Object,
        parts: &[&[u8]],
        digest: &Digest,
    ) -> Result<(), FormatError> {
        let found = blake3::Hash::from_bytes(self.digest(object, parts));
        if found == *digest {
            Ok(())
        } else {
            Err(FormatError::Digest { object })
        }
    }

    /// Fails unless an object with this kind of seal and this key's id can be checked by `self`.
    pub(crate) fn accepts(
        &self,
        object: Object,
        kind: u8,
        key_id: KeyId,
    ) -> Result<(), FormatError> {
        match kind {
            _ if kind == self.kind() && key_id == self.key_id => Ok(()),
            KIND_PLAIN | KIND_KEYED if self.is_keyed() => Err(FormatError::KeyMismatch {
                object,
                found: key_id,
                configured: self.key_id,
            }),
            KIND_KEYED => Err(FormatError::KeyMissing { object, key_id }),
            _ => Err(FormatError::Digest { object }),
        }
    }

    fn key(&self, object: Object) -> &[u8; 32] {
        match object {
            Object::Frame | Object::Key => &self.frame,
            Object::Pack => &self.pack,
            Object::Manifest => &self.manifest,
            Object::Head => &self.head,
        }
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(…)")
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_objects_and_keys_have_digests_of_their_own() {
        let key = |n: u8| StoreKey::from_secret(&[n; 32]).unwrap();
        let seals = [Seal::plain(), Seal::keyed(&key(1)), Seal::keyed(&key(2))];
        let objects = [Object::Frame, Object::Pack, Object::Manifest, Object::Head];
        let mut all: Vec<Digest> = seals
            .iter()
            .flat_map(|seal| objects.map(|object| seal.digest(object, &[b"same"])))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), seals.len() * objects.len());
    }

    #[test]
    fn a_reader_with_a_key_refuses_objects_without_one() {
        let keyed = Seal::keyed(&StoreKey::from_secret(&[7; 40]).unwrap());
        let plain = Seal::plain();
        assert!(
            keyed
                .accepts(Object::Head, plain.kind(), plain.key_id())
                .is_err()
        );
        assert!(
            keyed
                .accepts(Object::Head, keyed.kind(), plain.key_id())
                .is_err()
        );
        assert!(
            plain
                .accepts(Object::Head, keyed.kind(), keyed.key_id())
                .is_err()
        );
        assert!(
            keyed
                .accepts(Object::Head, keyed.kind(), keyed.key_id())
                .is_ok()
        );
        assert!(
            plain
                .accepts(Object::Head, plain.kind(), plain.key_id())
                .is_ok()
        );
    }

    #[test]
    fn keys_are_long_enough_and_never_printed() {
        assert_eq!(
            StoreKey::from_secret(&[1; 31]).err(),
            Some(StoreKeyError::TooShort { found: 31 })
        );
        let key = StoreKey::from_secret(&[0xab; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "StoreKey(…)");
        assert!(!format!("{:?}", Seal::keyed(&key)).contains(&hex::encode(&key.0[..4])));
    }
}
