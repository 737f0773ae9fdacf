//! Manifests as messages, and back.
//!
//! Coming back, only what types demand is checked here; `check` does the rest.

use bytes::Bytes;
use lifeboat_proto::{
    id::{Epoch, IdError, PackId},
    image,
    units::{PageIndex, PageRun},
};

use super::{
    AddressSpace, FileArchive, ImageFile, Manifest, PackRef, Platform, SharedMemory, Stream,
    StreamPipe, TcpPolicy, WorkloadSpec,
    columns::{frames, frames_message, runs, runs_message},
};
use crate::error::{FormatError, Object, Problem};

/// The message of a manifest that passed the check.
pub(super) fn message(manifest: &Manifest) -> image::Manifest {
    image::Manifest {
        checkpoint_id: manifest.checkpoint.to_string(),
        workload: manifest.workload.to_string(),
        epoch: manifest.epoch.0,
        frozen_at_unix_ns: manifest.frozen_at_unix_ns,
        platform: Some(platform_message(&manifest.platform)),
        spec: Some(spec_message(&manifest.spec)),
        packs: manifest
            .packs
            .iter()
            .map(|pack| image::Pack {
                id: Bytes::copy_from_slice(&pack.id.0),
                size_bytes: pack.size_bytes,
            })
            .collect(),
        frames: Some(frames_message(&manifest.frames)),
        address_spaces: manifest
            .address_spaces
            .iter()
            .map(|space| image::AddressSpace {
                pid: space.pid,
                runs: Some(runs_message(&space.runs)),
                hot: ranges_message(&space.hot),
                captured: ranges_message(&space.captured),
            })
            .collect(),
        image_files: manifest
            .image_files
            .iter()
            .map(|file| image::ImageFile {
                name: file.name.clone(),
                size_bytes: file.size_bytes,
                frames: file.frames.clone(),
            })
            .collect(),
        files: manifest.files.as_ref().map(|files| image::FileArchive {
            size_bytes: files.size_bytes,
            frames: files.frames.clone(),
        }),
        root_pid: manifest.root_pid,
        memory_bytes: manifest.memory_bytes,
        parent_checkpoint_id: manifest.parent.map(|parent| parent.to_string()),
        shared_memory: manifest
            .shared_memory
            .iter()
            .map(|object| image::SharedMemory {
                id: object.id,
                runs: Some(runs_message(&object.runs)),
                pages: object.pages,
            })
            .collect(),
    }
}

/// The manifest of a message. Unchecked.
pub(super) fn manifest(message: image::Manifest) -> Result<Manifest, FormatError> {
    let parent = message
        .parent_checkpoint_id
        .map(|id| id.parse())
        .transpose();
    Ok(Manifest {
        checkpoint: message.checkpoint_id.parse().map_err(id("checkpoint_id"))?,
        workload: message.workload.parse().map_err(id("workload"))?,
        epoch: Epoch(message.epoch),
        frozen_at_unix_ns: message.frozen_at_unix_ns,
        platform: platform(message.platform.ok_or_else(|| missing("platform"))?),
        spec: spec(message.spec.ok_or_else(|| missing("spec"))?)?,
        packs: packs(&message.packs)?,
        frames: frames(&message.frames.unwrap_or_default())?,
        address_spaces: each(message.address_spaces, address_space)?,
        image_files: message.image_files.into_iter().map(image_file).collect(),
        files: message.files.map(|files| FileArchive {
            size_bytes: files.size_bytes,
            frames: files.frames,
        }),
        root_pid: message.root_pid,
        memory_bytes: message.memory_bytes,
        parent: parent.map_err(id("parent_checkpoint_id"))?,
        shared_memory: each(message.shared_memory, shared_memory)?,
    })
}

fn platform_message(platform: &Platform) -> image::Platform {
    image::Platform {
        architecture: platform.architecture.clone(),
        criu_version: platform.criu_version.clone(),
        kernel_release: platform.kernel_release.clone(),
        page_size: platform.page_size,
        cpu_features: platform.cpu_features.clone(),
        node: platform.node.clone(),
    }
}

fn platform(message: image::Platform) -> Platform {
    Platform {
        architecture: message.architecture,
        criu_version: message.criu_version,
        kernel_release: message.kernel_release,
        page_size: message.page_size,
        cpu_features: message.cpu_features,
        node: message.node,
    }
}

fn spec_message(spec: &WorkloadSpec) -> image::WorkloadSpec {
    image::WorkloadSpec {
        argv: spec.argv.clone(),
        working_directory: spec.working_directory.clone(),
        uid: spec.uid,
        gid: spec.gid,
        preserve: spec.preserve.clone(),
        tcp: match spec.tcp {
            TcpPolicy::Close => image::TcpPolicy::Close,
            TcpPolicy::Keep => image::TcpPolicy::Keep,
        }
        .into(),
        terminal: spec.terminal,
        streams: spec
            .streams
            .iter()
            .map(|pipe| image::StreamPipe {
                stream: image::Stream::from(pipe.stream).into(),
                inode: pipe.inode,
            })
            .collect(),
    }
}

fn spec(message: image::WorkloadSpec) -> Result<WorkloadSpec, FormatError> {
    let tcp = match image::TcpPolicy::try_from(message.tcp) {
        Ok(image::TcpPolicy::Unspecified | image::TcpPolicy::Close) => TcpPolicy::Close,
        Ok(image::TcpPolicy::Keep) => TcpPolicy::Keep,
        Err(_) => return Err(invalid("spec.tcp", Problem::UnknownValue(message.tcp))),
    };
    let streams = message.streams.iter().map(|pipe| {
        Stream::try_from(pipe.stream)
            .map(|stream| StreamPipe {
                stream,
                inode: pipe.inode,
            })
            .map_err(|problem| invalid("spec.streams", problem))
    });
    Ok(WorkloadSpec {
        streams: streams.collect::<Result<_, _>>()?,
        argv: message.argv,
        working_directory: message.working_directory,
        uid: message.uid,
        gid: message.gid,
        preserve: message.preserve,
        tcp,
        terminal: message.terminal,
    })
}

fn packs(messages: &[image::Pack]) -> Result<Vec<PackRef>, FormatError> {
    let pack = |(n, pack): (usize, &image::Pack)| {
        let id = PackId::try_from(pack.id.as_ref())
            .map_err(|e| invalid(format!("packs[{n}].id"), Problem::Id(e)))?;
        Ok(PackRef {
            id,
            size_bytes: pack.size_bytes,
        })
    };
    messages.iter().enumerate().map(pack).collect()
}

fn ranges_message(ranges: &[PageRun]) -> Vec<image::PageRange> {
    let range = |run: &PageRun| image::PageRange {
        start: run.start.0,
        pages: run.pages,
    };
    ranges.iter().map(range).collect()
}

fn ranges(messages: &[image::PageRange]) -> Vec<PageRun> {
    messages
        .iter()
        .map(|range| PageRun::new(PageIndex(range.start), range.pages))
        .collect()
}

fn address_space(n: usize, message: image::AddressSpace) -> Result<AddressSpace, FormatError> {
    let runs = runs(&message.runs.unwrap_or_default())
        .map_err(|(field, p)| invalid(format!("address_spaces[{n}].{field}"), p))?;
    let (hot, captured) = (ranges(&message.hot), ranges(&message.captured));
    Ok(AddressSpace {
        pid: message.pid,
        runs,
        hot,
        captured,
    })
}

fn shared_memory(n: usize, message: image::SharedMemory) -> Result<SharedMemory, FormatError> {
    let runs = runs(&message.runs.unwrap_or_default())
        .map_err(|(field, p)| invalid(format!("shared_memory[{n}].{field}"), p))?;
    Ok(SharedMemory {
        id: message.id,
        runs,
        pages: message.pages,
    })
}

fn image_file(message: image::ImageFile) -> ImageFile {
    ImageFile {
        name: message.name,
        size_bytes: message.size_bytes,
        frames: message.frames,
    }
}

fn each<M, T>(
    messages: Vec<M>,
    convert: impl Fn(usize, M) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    messages
        .into_iter()
        .enumerate()
        .map(|(n, message)| convert(n, message))
        .collect()
}

fn id(field: &'static str) -> impl FnOnce(IdError) -> FormatError {
    move |error| invalid(field, Problem::Id(error))
}

fn missing(field: &str) -> FormatError {
    invalid(field, Problem::Missing)
}

pub(super) fn invalid(field: impl Into<String>, problem: Problem) -> FormatError {
    FormatError::invalid(Object::Manifest, field, problem)
}

impl From<Stream> for image::Stream {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdin => Self::Stdin,
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
            Stream::TerminalControl => Self::TerminalControl,
        }
    }
}

impl TryFrom<i32> for Stream {
    type Error = Problem;

    fn try_from(stream: i32) -> Result<Self, Problem> {
        match image::Stream::try_from(stream) {
            Ok(image::Stream::Stdin) => Ok(Self::Stdin),
            Ok(image::Stream::Stdout) => Ok(Self::Stdout),
            Ok(image::Stream::Stderr) => Ok(Self::Stderr),
            Ok(image::Stream::TerminalControl) => Ok(Self::TerminalControl),
            Ok(image::Stream::Unspecified) | Err(_) => Err(Problem::UnknownValue(stream)),
        }
    }
}
