//! What this machine is like, and whether a checkpoint of another one can run on it.

use lifeboat_criu::Bundle;
use lifeboat_format::manifest::Platform;
use lifeboat_proto::image;

/// The platform of this machine.
#[must_use]
pub fn of_this_machine(node: &str, criu: &Bundle) -> Platform {
    let image::Platform {
        architecture,
        criu_version,
        kernel_release,
        page_size,
        cpu_features,
        node,
    } = lifeboat_blockers::local_platform(&criu.version().to_string(), node);
    Platform {
        architecture,
        criu_version,
        kernel_release,
        page_size,
        cpu_features,
        node,
    }
}

/// What keeps a checkpoint made on `stored` from running on `here`, each with what to do.
#[must_use]
pub fn mismatch(stored: &Platform, here: &Platform) -> Vec<String> {
    lifeboat_blockers::platform_mismatch(&message(stored), &message(here))
}

fn message(platform: &Platform) -> image::Platform {
    let platform = platform.clone();
    image::Platform {
        architecture: platform.architecture,
        criu_version: platform.criu_version,
        kernel_release: platform.kernel_release,
        page_size: platform.page_size,
        cpu_features: platform.cpu_features,
        node: platform.node,
    }
}
