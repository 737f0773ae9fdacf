//! `lifeboatd check`: what this kernel, CRIU and store can and cannot do, and what to do about it.

use std::{io::Write as _, process::ExitCode};

use lifeboat_proto::v1::{Capability, CapabilityState};

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

fn kernel() -> Vec<Capability> {
    Vec::new()
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
    match lifeboat_store::open(&config.store, &lifeboat_store::Options::default()).await {
        Err(error) => {
            let remedy = "correct --store";
            vec![capability(
                "store",
                "open",
                CapabilityState::Missing,
                chain(&error),
                remedy,
            )]
        }
        Ok(store) => {
            vec![capability(
                "store",
                "open",
                CapabilityState::Ok,
                store.describe(),
                "",
            )]
        }
    }
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
