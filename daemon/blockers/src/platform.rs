//! Whether a checkpoint of another machine can run on this one.

use std::{fs::File, io::Read as _};

use lifeboat_proto::image::Platform;

/// Most bytes of /proc/cpuinfo that are read; the first processor is enough.
const CPUINFO_BYTES_MAX: u64 = 64 << 10;

/// Beginnings of the names of processor features that programs use without asking the kernel:
/// instruction sets. Other features (mitigations, power, virtualisation) may differ.
const INSTRUCTION_SETS: [&str; 50] = [
    // x86
    "mmx",
    "sse",
    "pni",
    "ssse3",
    "avx",
    "fma",
    "f16c",
    "bmi",
    "abm",
    "adx",
    "aes",
    "vaes",
    "sha",
    "pclmulqdq",
    "vpclmulqdq",
    "popcnt",
    "lzcnt",
    "movbe",
    "movdir",
    "rdrand",
    "rdseed",
    "rdpid",
    "rdtscp",
    "fsgsbase",
    "cx16",
    "cx8",
    "cmov",
    "lahf_lm",
    "xsave",
    "clflushopt",
    "clwb",
    "clzero",
    "gfni",
    "amx_",
    "serialize",
    "waitpkg",
    "tbm",
    "xop",
    "fma4",
    "3dnow",
    "rtm",
    "hle",
    "user_shstk",
    // arm64
    "fp",
    "asimd",
    "atomics",
    "crc32",
    "sve",
    "sme",
    "lrcpc",
];

/// The facts about this machine that a checkpoint records. `criu_version` and `node` are the caller's.
#[must_use]
pub fn local_platform(criu_version: &str, node: &str) -> Platform {
    let uname = rustix::system::uname();
    let mut cpuinfo = Vec::new();
    // Without the file (a container that hides it) no feature is known, and none is demanded.
    if let Ok(file) = File::open("/proc/cpuinfo") {
        let read = file.take(CPUINFO_BYTES_MAX).read_to_end(&mut cpuinfo);
        if read.is_err() {
            cpuinfo.clear();
        }
    }
    Platform {
        architecture: uname.machine().to_string_lossy().into_owned(),
        criu_version: criu_version.to_owned(),
        kernel_release: uname.release().to_string_lossy().into_owned(),
        page_size: u32::try_from(rustix::param::page_size()).unwrap_or_default(),
        cpu_features: features(&String::from_utf8_lossy(&cpuinfo)),
        node: node.to_owned(),
    }
}

/// The features of the first processor that are instruction sets, sorted.
fn features(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    });
    let all = line.unwrap_or_default().split_whitespace();
    let mut features: Vec<String> = all
        .filter(|name| is_used(name))
        .map(str::to_owned)
        .collect();
    features.sort();
    features
}

fn is_used(feature: &str) -> bool {
    INSTRUCTION_SETS
        .iter()
        .any(|known| feature.starts_with(known))
}

/// Why a checkpoint of the machine `stored` cannot be restored on the machine `here`, one sentence
/// each. An empty list: nothing speaks against it. What `stored` says is outside input; a field that
/// is empty there demands nothing.
#[must_use]
pub fn platform_mismatch(stored: &Platform, here: &Platform) -> Vec<String> {
    let mut reasons = Vec::new();
    let from = if stored.node.is_empty() {
        "another machine"
    } else {
        &stored.node
    };
    if !stored.architecture.is_empty() && stored.architecture != here.architecture {
        reasons.push(format!(
            "the checkpoint is from a machine of type {:?} ({from}), this one is {:?}: restore it \
             on a machine of the same type",
            stored.architecture, here.architecture
        ));
        // Features of another architecture say nothing more.
        return reasons;
    }
    if stored.page_size != 0 && stored.page_size != here.page_size {
        reasons.push(format!(
            "the checkpoint has pages of {} bytes ({from}), this machine has pages of {} bytes",
            stored.page_size, here.page_size
        ));
    }
    if !stored.criu_version.is_empty() && minor(&stored.criu_version) != minor(&here.criu_version) {
        reasons.push(format!(
            "the checkpoint was written by CRIU {:?} ({from}), this machine has {:?}: its images \
             are only read by the same minor version",
            stored.criu_version, here.criu_version
        ));
    }
    let missing: Vec<&str> = stored
        .cpu_features
        .iter()
        .map(String::as_str)
        .filter(|feature| is_used(feature) && !here.cpu_features.iter().any(|have| have == feature))
        .collect();
    if !missing.is_empty() {
        reasons.push(format!(
            "this machine's processor lacks {} of the machine that the checkpoint is from ({from}): \
             restore it on one with the same processor family",
            missing.join(", ")
        ));
    }
    reasons
}

/// The first two numbers of a version: `4.2` of `4.2.1`.
fn minor(version: &str) -> (&str, &str) {
    let mut parts = version.trim_start_matches('v').split('.');
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or("0"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_fits_itself() {
        let here = local_platform("4.2.1", "a");
        assert!(!here.architecture.is_empty() && here.page_size >= 4096);
        assert!(!here.cpu_features.is_empty());
        let newer_patch = Platform {
            criu_version: "4.2".to_owned(),
            ..here.clone()
        };
        assert_eq!(platform_mismatch(&newer_patch, &here), Vec::<String>::new());
        assert_eq!(
            platform_mismatch(&Platform::default(), &here),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_difference_that_matters_is_told() {
        let here = local_platform("4.2.1", "here");
        let check = |stored: Platform, expected: &[&str]| {
            let reasons = platform_mismatch(&stored, &here);
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            for text in expected {
                assert!(reasons[0].contains(text), "{reasons:?} lacks {text}");
            }
        };
        let stored = Platform {
            node: "there".to_owned(),
            ..here.clone()
        };
        let mut more = stored.cpu_features.clone();
        more.extend(["avx9000", "ibrs_enhanced"].map(str::to_owned));
        check(
            Platform {
                cpu_features: more,
                ..stored.clone()
            },
            &["lacks avx9000 of", "(there)"],
        );
        check(
            Platform {
                criu_version: "4.3".to_owned(),
                ..stored.clone()
            },
            &["4.3", "4.2.1"],
        );
        check(
            Platform {
                page_size: 65536,
                ..stored.clone()
            },
            &["65536", "4096"],
        );
        let other = Platform {
            architecture: "s390x".to_owned(),
            page_size: 1,
            ..stored
        };
        check(other, &["s390x", "there"]);
    }

    #[test]
    fn only_instruction_sets_of_the_first_processor_are_recorded() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 ibpb tsc_known_freq\n\n\
                       processor\t: 1\nflags\t\t: avx512f\n";
        assert_eq!(features(cpuinfo), ["avx2", "fpu", "sse4_2"]);
        assert_eq!(
            features("Features\t: fp asimd evtstrm sve2\n"),
            ["asimd", "fp", "sve2"]
        );
        assert_eq!(features("nonsense"), Vec::<String>::new());
    }
}
