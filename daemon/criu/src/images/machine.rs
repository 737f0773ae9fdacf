//! What images say about the machine they come from: clocks, CPU, namespaces.

use std::time::Duration;

use prost::Message;

use super::{ImageSet, ImagesError, frame::Reader};

const INVENTORY_MAGIC: u32 = 0x5831_3116;
const IDS_MAGIC: u32 = 0x5443_2030;
const TIMENS_MAGIC: u32 = 0x4311_4433;
const CPUINFO_MAGIC: u32 = 0x6140_4013;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Inventory {
    #[prost(uint32, required, tag = "1")]
    pub(super) img_version: u32,
    #[prost(message, optional, tag = "3")]
    pub(super) root_ids: Option<Ids>,
}

/// Which namespaces a process is in; equal numbers are equal namespaces.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Ids {
    #[prost(uint32, optional, tag = "5")]
    pub(super) pid: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub(super) net: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) ipc: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub(super) uts: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub(super) mount: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub(super) user: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub(super) cgroup: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Timespec {
    #[prost(uint64, required, tag = "1")]
    seconds: u64,
    #[prost(uint64, required, tag = "2")]
    nanoseconds: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct TimeNs {
    #[prost(message, required, tag = "1")]
    monotonic: Timespec,
    #[prost(message, required, tag = "2")]
    boot: Timespec,
}

/// The tree's clocks at the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Duration,
    /// `CLOCK_BOOTTIME`.
    pub boot: Duration,
}

#[derive(Clone, PartialEq, Message)]
struct Cpus {
    #[prost(message, repeated, tag = "1")]
    x86: Vec<X86>,
}

#[derive(Clone, PartialEq, Message)]
struct X86 {
    #[prost(uint32, required, tag = "2")]
    cpu_family: u32,
    #[prost(uint32, required, tag = "3")]
    model: u32,
    #[prost(uint32, repeated, packed = "false", tag = "6")]
    capability: Vec<u32>,
    #[prost(string, optional, tag = "7")]
    model_id: Option<String>,
    #[prost(uint64, optional, tag = "8")]
    xfeatures_mask: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    xsave_size: Option<u32>,
}

/// The CPU of the dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuInfo {
    /// Its name, for people.
    pub model: String,
    /// Feature words as the kernel orders them (`cpufeatures.h`).
    pub capabilities: Vec<u32>,
    /// Extended states that the kernel saves.
    pub xfeatures: u64,
    /// Size of the saved state, in bytes; must be equal at the restore.
    pub xsave_bytes: u32,
}

pub(super) fn inventory(images: &ImageSet) -> Result<Inventory, ImagesError> {
    let name = "inventory.img";
    Reader::without_common(name, images.required(name)?, INVENTORY_MAGIC)?.required()
}

/// `None`: the process has no file of its own for them.
pub(super) fn ids(images: &ImageSet, pid: u32) -> Result<Option<Ids>, ImagesError> {
    let name = format!("ids-{pid}.img");
    match images.get(&name) {
        Some(bytes) => Reader::new(&name, bytes, IDS_MAGIC)?.required().map(Some),
        None => Ok(None),
    }
}

pub(super) fn clocks(images: &ImageSet) -> Result<Clocks, ImagesError> {
    // A tree that was restored before lives in a time namespace, whose number is in the name.
    let found = images.names().find(|name| name.starts_with("timens-"));
    let name = found.unwrap_or("timens-0.img");
    let mut reader = Reader::new(name, images.required(name)?, TIMENS_MAGIC)?;
    let entry = reader.required::<TimeNs>()?;
    let duration = |time: Timespec| match u32::try_from(time.nanoseconds) {
        Ok(nanoseconds @ 0..1_000_000_000) => Ok(Duration::new(time.seconds, nanoseconds)),
        _ => Err(reader.malformed("nanoseconds below a second")),
    };
    Ok(Clocks {
        monotonic: duration(entry.monotonic)?,
        boot: duration(entry.boot)?,
    })
}

/// `None`: the image does not say.
pub(super) fn cpu(images: &ImageSet) -> Result<Option<CpuInfo>, ImagesError> {
    let name = "cpuinfo.img";
    let Some(bytes) = images.get(name) else {
        return Ok(None);
    };
    let mut cpus = Reader::new(name, bytes, CPUINFO_MAGIC)?.required::<Cpus>()?;
    Ok(cpus.x86.pop().map(|cpu| CpuInfo {
        model: cpu
            .model_id
            .unwrap_or_else(|| format!("{}/{}", cpu.cpu_family, cpu.model)),
        capabilities: cpu.capability,
        xfeatures: cpu.xfeatures_mask.unwrap_or(0),
        xsave_bytes: cpu.xsave_size.unwrap_or(0),
    }))
}
