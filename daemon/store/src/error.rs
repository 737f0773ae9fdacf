//! How an operation on a store fails.

use std::{borrow::Cow, error::Error, fmt};

use crate::Key;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// [`crate::Store::put`]
    Put,
    /// [`crate::Store::put_if_absent`]
    PutIfAbsent,
    /// [`crate::Store::put_if_match`]
    PutIfMatch,
    /// [`crate::Store::get`]
    Get,
    /// [`crate::Store::get_range`]
    GetRange,
    /// [`crate::Store::head`]
    Head,
    /// [`crate::Store::list`]
    List,
    /// [`crate::Store::delete`]
    Delete,
}

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such object.
    NotFound,
    /// The object that was to be created exists.
    AlreadyExists,
    /// The object that was to be replaced is not in the expected state, or gone.
    Conflict,
    /// A conditional write that may or may not have happened: its answer was lost. Read back.
    Unknown,
    /// The network, the server or its load: the same call may succeed later.
    Transient,
    /// The call's deadline came first. Nothing is known against the store.
    Deadline,
    /// The credentials are missing, wrong or not enough.
    Denied,
    /// The bucket or the folder does not exist.
    NoBucket,
    /// No room: disk, quota.
    Full,
    /// The object is larger than the caller accepts.
    TooLarge,
    /// The object ends before the range that was asked for.
    OutOfRange,
    /// The store refuses the request as wrong, whoever asks and however often.
    Invalid,
    /// The store cannot do this.
    Unsupported,
}

/// A failed operation: what was attempted, on what, and what was found. Holds no credentials.
#[derive(Debug)]
pub struct StoreError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: Operation,
    /// Key or prefix.
    subject: String,
    found: Cow<'static, str>,
    attempts: u32,
    undone: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// A failure of `operation` on `subject` (a key or prefix), with what was found in lower-case
    /// words.
    pub fn new(
        kind: ErrorKind,
        operation: Operation,
        subject: impl fmt::Display,
        found: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (subject, found) = (subject.to_string(), found.into());
        Self(Box::new(Inner {
            kind,
            operation,
            subject,
            found,
            attempts: 1,
            undone: false,
            source: None,
        }))
    }

    pub(crate) fn too_large(key: &Key, size: u64, max_bytes: u64) -> Self {
        let found = format!("the object has {size} bytes, {max_bytes} are accepted");
        Self::new(ErrorKind::TooLarge, Operation::Get, key, found)
    }

    pub(crate) fn out_of_range(key: &Key, offset: u64, len: u64, size: Option<u64>) -> Self {
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        let found = format!("{len} bytes at {offset} do not lie within the object{size}");
        Self::new(ErrorKind::OutOfRange, Operation::GetRange, key, found)
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same failure as another kind: what it means after all that was tried.
    #[must_use]
    pub fn into_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same failure, of which it is known that nothing was written.
    #[must_use]
    pub fn surely_undone(mut self) -> Self {
        self.0.undone = true;
        self
    }

    /// Whether it is known that nothing was written.
    pub(crate) fn is_surely_undone(&self) -> bool {
        self.0.undone
    }

    /// The same failure, of the last of `attempts` attempts.
    #[must_use]
    pub fn after_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was attempted.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Transient | ErrorKind::Deadline | ErrorKind::Unknown
        )
    }

    /// Whether the object was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            operation,
            subject,
            found,
            attempts,
            kind,
            ..
        } = &*self.0;
        write!(f, "{operation} {subject:?}: {kind}: {found}")?;
        if *attempts > 1 {
            write!(f, " (after {attempts} attempts)")?;
        }
        Ok(())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn Error + 'static))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::PutIfAbsent => "create",
            Self::PutIfMatch => "replace",
            Self::Get => "get",
            Self::GetRange => "get range of",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Conflict => "changed by another writer",
            Self::Unknown => "outcome unknown",
            Self::Transient => "temporary failure",
            Self::Deadline => "deadline passed",
            Self::Denied => "access denied",
            Self::NoBucket => "no such bucket or folder",
            Self::Full => "no room",
            Self::TooLarge => "too large",
            Self::OutOfRange => "out of range",
            Self::Invalid => "refused",
            Self::Unsupported => "not supported",
        })
    }
}

/// The first cause of type `T` in a chain of causes.
pub(crate) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
