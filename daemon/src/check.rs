//! `lifeboatd check`: what this kernel, CRIU and store can and cannot do, and what to do about it.

use std::{io::Write as _, process::ExitCode};

use lifeboat_proto::{
    units::PAGE_SIZE,
    v1::{Capability, CapabilityState},
};
use lifeboat_store::{
    Call,
    probe::{PROBE_BUDGET, probe},
};
use lifeboat_sys::probe::{Capability as KernelCapability, Finding, Kernel};

use crate::{config::Config, daemon::bundle, observe::chain};

/// Prints the configuration in force as TOML.
///
/// # Errors
/// When standard output is gone.
pub fn print_config(config: &Config) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(toml::to_string_pretty(config)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Checks this machine and prints what was found. The status is 1 when something is missing that
/// the product does not work without.
///
/// # Errors
/// When standard output is gone.
pub async fn main(config: Config, json: bool) -> anyhow::Result<ExitCode> {
    let capabilities = capabilities(&config).await;
    let mut out = std::io::stdout().lock();
    if json {
        let list: Vec<_> = capabilities.iter().map(as_json).collect();
        serde_json::to_writer_pretty(&mut out, &list)?;
        writeln!(out)?;
    } else {
        for one in &capabilities {
            writeln!(
                out,
                "{:8} {:7} {:24} {}",
                word(one),
                one.area,
                one.name,
                one.found
            )?;
            if !one.remedy.is_empty() {
                writeln!(out, "{:42}→ {}", "", one.remedy)?;
            }
        }
    }
    let missing = capabilities
        .iter()
        .any(|one| one.state == CapabilityState::Missing as i32);
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything that was found.
pub async fn capabilities(config: &Config) -> Vec<Capability> {
    let mut all = kernel();
    all.push(criu(config));
    all.extend(store(config).await);
    all.push(programs(config));
    all
}

fn word(one: &Capability) -> &'static str {
    match CapabilityState::try_from(one.state) {
        Ok(CapabilityState::Ok) => "ok",
        Ok(CapabilityState::Degraded) => "degraded",
        Ok(CapabilityState::Missing) => "MISSING",
        _ => "unknown",
    }
}

fn as_json(one: &Capability) -> serde_json::Value {
    serde_json::json!({
        "area": one.area,
        "name": one.name,
        "state": word(one).to_lowercase(),
        "found": one.found,
        "remedy": one.remedy,
    })
}

fn capability(
    area: &str,
    name: &str,
    state: CapabilityState,
    found: impl Into<String>,
    remedy: &str,
) -> Capability {
    Capability {
        name: name.to_owned(),
        area: area.to_owned(),
        state: state.into(),
        found: found.into(),
        remedy: remedy.to_owned(),
    }
}

/// What the product needs of the kernel.
fn kernel() -> Vec<Capability> {
    let kernel = Kernel::probe();
    let need = CapabilityState::Missing;
    let like = CapabilityState::Degraded;
    let mut all = vec![
        finding(
            "userfaultfd",
            &kernel.userfaultfd,
            need,
            "set sysctl vm.unprivileged_userfaultfd=1 or run as root; kernel 5.11",
        ),
        finding(
            "pidfd-getfd",
            &kernel.pidfd_getfd,
            need,
            "kernel 5.6 and CAP_SYS_PTRACE",
        ),
        finding(
            "process-memory",
            &kernel.process_memory,
            need,
            "CAP_SYS_PTRACE; look at kernel.yama.ptrace_scope",
        ),
        finding(
            "clone3",
            &kernel.clone3,
            need,
            "kernel 5.5; restored processes keep their numbers by it",
        ),
        finding(
            "time-namespaces",
            &kernel.time_namespaces,
            like,
            "kernel 5.6; without, monotonic clocks jump at a restore",
        ),
        finding(
            "children-lists",
            &kernel.children_lists,
            need,
            "a kernel with CONFIG_PROC_CHILDREN",
        ),
        finding("pagemap-scan", &kernel.pagemap_scan, need, "kernel 6.7"),
    ];
    all.extend(settings(&kernel));
    all
}

/// What was given to this process, and how the kernel is set.
fn settings(kernel: &Kernel) -> Vec<Capability> {
    let need = CapabilityState::Missing;
    let like = CapabilityState::Degraded;
    let mut all = Vec::new();
    let root = kernel.has(KernelCapability::SysAdmin) && kernel.has(KernelCapability::SysPtrace);
    let found = if root {
        "CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    } else {
        "an ordinary process"
    };
    all.push(judged("privileges", root, need, found, "run as root"));
    let resource = kernel.has(KernelCapability::SysResource);
    let found = if resource {
        "CAP_SYS_RESOURCE"
    } else {
        "no CAP_SYS_RESOURCE"
    };
    let remedy = "without it, limits that were lowered cannot be raised again at a restore";
    all.push(judged("resource-limits", resource, like, found, remedy));
    let overcommits = kernel.overcommit_memory == Some(1);
    let found = format!(
        "vm.overcommit_memory={}",
        kernel.overcommit_memory.unwrap_or_default()
    );
    let remedy =
        "set it to 1 on machines that restore programs which reserve more memory than there is";
    all.push(judged("overcommit", overcommits, like, &found, remedy));
    let pages = kernel.page_size == PAGE_SIZE;
    let found = format!("{} bytes", kernel.page_size);
    all.push(judged(
        "page-size",
        pages,
        need,
        &found,
        "a kernel with pages of 4096 bytes",
    ));
    all
}

fn finding(name: &str, finding: &Finding, otherwise: CapabilityState, remedy: &str) -> Capability {
    judged(
        name,
        finding.works(),
        otherwise,
        &finding.to_string(),
        remedy,
    )
}

fn judged(
    name: &str,
    works: bool,
    otherwise: CapabilityState,
    found: &str,
    remedy: &str,
) -> Capability {
    if works {
        capability("kernel", name, CapabilityState::Ok, found, "")
    } else {
        capability("kernel", name, otherwise, found, remedy)
    }
}

fn criu(config: &Config) -> Capability {
    let remedy = "run deploy/setup.sh, or name the bundle with --criu-bundle";
    match bundle(config) {
        Err(error) => capability(
            "criu",
            "bundle",
            CapabilityState::Missing,
            chain(&error),
            remedy,
        ),
        Ok(bundle) => {
            let found = format!("{} at {}", bundle.version(), config.criu_bundle.display());
            capability("criu", "bundle", CapabilityState::Ok, found, "")
        }
    }
}

async fn store(config: &Config) -> Vec<Capability> {
    let missing = |name: &str, found: String, remedy: &str| {
        vec![capability(
            "store",
            name,
            CapabilityState::Missing,
            found,
            remedy,
        )]
    };
    let store = match lifeboat_store::open(&config.store, &lifeboat_store::Options::default()).await
    {
        Err(error) => return missing("open", chain(&error), "correct --store"),
        Ok(store) => store,
    };
    let report = match probe(&*store, Call::within(PROBE_BUDGET)).await {
        Err(error) => {
            let remedy = "look at the address, the credentials and the bucket";
            return missing("use", chain(&error), remedy);
        }
        Ok(report) => report,
    };
    let found = format!(
        "{}, {:?} for a request",
        store.describe(),
        report.round_trip
    );
    let mut all = vec![capability("store", "use", CapabilityState::Ok, found, "")];
    let state = if report.is_usable() && report.is_shareable() {
        CapabilityState::Degraded
    } else {
        CapabilityState::Missing
    };
    all.extend(
        report.shortcomings.iter().map(|shortcoming| {
            capability("store", "shortcoming", state, shortcoming.to_string(), "")
        }),
    );
    all
}

fn programs(config: &Config) -> Capability {
    let missing: Vec<_> = ["lifeboat", "lifeboat-hook", "liblifeboat_preload.so"]
        .into_iter()
        .filter(|name| !config.libexec.join(name).exists())
        .collect();
    if missing.is_empty() {
        let found = config.libexec.display().to_string();
        return capability("node", "programs", CapabilityState::Ok, found, "");
    }
    let found = format!(
        "{} missing in {}",
        missing.join(", "),
        config.libexec.display()
    );
    let remedy = "install them beside lifeboatd, or name their folder with --libexec";
    capability("node", "programs", CapabilityState::Missing, found, remedy)
}
