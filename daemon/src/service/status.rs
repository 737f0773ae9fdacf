//! Errors of the daemon as gRPC statuses: here and nowhere else.

use lifeboat_proto::id::IdError;
use tonic::{Code, Status};

use crate::{claim::ClaimError, observe::chain, restore::RestoreError, workload::RegistryError};

/// An error that a caller is told.
pub trait IntoStatus {
    /// Its code.
    fn code(&self) -> Code;
}

/// The status for an error.
#[expect(
    clippy::needless_pass_by_value,
    reason = "made for `map_err`, which gives the value"
)]
pub fn status<E: IntoStatus + std::error::Error>(error: E) -> Status {
    Status::new(error.code(), chain(&error))
}

impl IntoStatus for IdError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl IntoStatus for RegistryError {
    fn code(&self) -> Code {
        match self {
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Unknown { .. } => Code::NotFound,
            Self::Full => Code::ResourceExhausted,
        }
    }
}

impl IntoStatus for ClaimError {
    fn code(&self) -> Code {
        match self {
            Self::Foreign { .. } => Code::PermissionDenied,
            Self::RunsElsewhere { .. } | Self::Lost { .. } => Code::FailedPrecondition,
            Self::Contended { .. } => Code::Aborted,
            Self::Store { .. } | Self::Unknown { .. } => Code::Unavailable,
            Self::Damaged { .. } => Code::DataLoss,
            Self::Unplaced { .. } => Code::InvalidArgument,
        }
    }
}

impl IntoStatus for RestoreError {
    fn code(&self) -> Code {
        match self {
            Self::Read { source, .. } if source.is_not_found() => Code::NotFound,
            Self::Read { .. } | Self::Fetch { .. } => Code::Unavailable,
            Self::Foreign { .. } => Code::PermissionDenied,
            Self::Platform { .. } => Code::FailedPrecondition,
            Self::Manifest { .. } | Self::NotCommitted { .. } | Self::Images(_) => Code::DataLoss,
            _ => Code::Internal,
        }
    }
}
