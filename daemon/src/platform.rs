//! What this machine is like, and whether a checkpoint of another one can run on it.

use lifeboat_criu::Bundle;
use lifeboat_format::manifest::Platform;
use lifeboat_proto::units::PAGE_SIZE;

/// The platform of this machine.
#[must_use]
pub fn of_this_machine(node: &str, criu: &Bundle) -> Platform {
    let system = rustix::system::uname();
    Platform {
        architecture: system.machine().to_string_lossy().into_owned(),
        criu_version: criu.version().to_string(),
        kernel_release: system.release().to_string_lossy().into_owned(),
        page_size: u32::try_from(rustix::param::page_size()).unwrap_or(0),
        cpu_features: cpu_features(),
        node: node.to_owned(),
    }
}

/// What keeps a checkpoint made on `stored` from running on `here`, each with what to do.
#[must_use]
pub fn mismatch(stored: &Platform, here: &Platform) -> Vec<String> {
    let mut reasons = Vec::new();
    if stored.architecture != here.architecture {
        reasons.push(format!(
            "it was made on {}, this machine is {}",
            stored.architecture, here.architecture
        ));
    }
    if stored.page_size != here.page_size || u64::from(here.page_size) != PAGE_SIZE {
        reasons.push(format!(
            "it has pages of {} bytes, this machine of {}",
            stored.page_size, here.page_size
        ));
    }
    let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    if minor(&stored.criu_version) != minor(&here.criu_version) {
        reasons.push(format!(
            "its images were written by CRIU {}, this node has {}; install the same minor version",
            stored.criu_version, here.criu_version
        ));
    }
    let missing: Vec<&str> = stored
        .cpu_features
        .iter()
        .filter(|feature| !here.cpu_features.contains(feature))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        reasons.push(format!(
            "this processor lacks {}, which the workload may use; restore on a machine of the same \
             kind",
            missing.join(", ")
        ));
    }
    reasons
}

/// Features that programs see and may rely on. What only the kernel uses differs between machines
/// of the same kind and is left out.
fn cpu_features() -> Vec<String> {
    let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") else { return Vec::new() };
    let line = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let Some((_, flags)) = line.and_then(|line| line.split_once(':')) else { return Vec::new() };
    let mut features: Vec<String> =
        flags.split_ascii_whitespace().filter(|flag| is_visible(flag)).map(str::to_owned).collect();
    features.sort_unstable();
    features
}

/// Instruction set extensions by the beginnings of their names in /proc/cpuinfo.
const VISIBLE: [&str; 35] = [
    "sse", "ssse", "pni", "avx", "aes", "bmi", "fma", "f16c", "adx", "sha", "vaes", "vpclmul",
    "pclmul", "popcnt", "movbe", "rdrand", "rdseed", "xsave", "fsgsbase", "gfni", "lzcnt", "abm",
    "cx16", "lahf", "mmx", "fxsr", "clflush", "clwb", "rdpid", "rdtscp", "erms", "fsrm", "amx",
    "movdir", "asimd",
];

fn is_visible(flag: &str) -> bool {
    VISIBLE.iter().any(|beginning| flag.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform {
            architecture: "x86_64".into(),
            criu_version: "4.2.1".into(),
            kernel_release: "6.18".into(),
            page_size: 4096,
            cpu_features: vec!["avx2".into(), "sse4_2".into()],
            node: "a".into(),
        }
    }

    #[test]
    fn machines_of_the_same_kind_match() {
        let other = Platform { criu_version: "4.2.3".into(), node: "b".into(), ..platform() };
        assert!(mismatch(&platform(), &other).is_empty());
        let more = vec!["avx2".into(), "avx512f".into(), "sse4_2".into()];
        assert!(mismatch(&platform(), &Platform { cpu_features: more, ..platform() }).is_empty());
    }

    #[test]
    fn each_difference_that_matters_is_told() {
        let other = Platform {
            architecture: "aarch64".into(),
            criu_version: "4.3".into(),
            cpu_features: vec!["sse4_2".into()],
            ..platform()
        };
        let reasons = mismatch(&platform(), &other);
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(reasons.iter().any(|reason| reason.contains("avx2")));
    }
}
