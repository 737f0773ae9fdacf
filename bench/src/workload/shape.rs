//! What a program is like, as options and as a command line.

use bytesize::ByteSize;
use clap::Args;

use super::locality::Locality;

/// What the program is like.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shape {
    /// Memory in all
    #[arg(long, default_value = "1GiB")]
    pub(crate) size: ByteSize,
    /// Memory that changes in a second, in all
    #[arg(long, default_value = "0B")]
    pub(crate) dirty_rate: ByteSize,
    /// Part of the memory, in percent, that changes at all
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) hot: u8,
    /// How the changes are spread over that part
    #[arg(long, value_enum, default_value_t)]
    pub(crate) locality: Locality,
    /// Part of each page, in percent, that does not compress
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) entropy: u8,
    /// A change is one of a page's first word only: as fast as memory can be dirtied
    #[arg(long)]
    pub(crate) touch: bool,
    /// Part of the threads' memory, in percent, that is mapped shared
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) shared: u8,
    /// Threads of each process that change memory
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) processes: u16,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            size: ByteSize::gib(1),
            dirty_rate: ByteSize(0),
            hot: 100,
            locality: Locality::Uniform,
            entropy: 50,
            touch: false,
            shared: 0,
            threads: 1,
            processes: 1,
        }
    }
}

impl Shape {
    /// The command line of such a program.
    pub(crate) fn command_line(&self, command: &mut tokio::process::Command) -> anyhow::Result<()> {
        use anyhow::Context as _;
        command.arg(std::env::current_exe().context("find this program")?);
        command.args(self.arguments());
        Ok(())
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let bytes = |size: ByteSize| format!("{}B", size.as_u64());
        let pairs = [
            ("--size", bytes(self.size)),
            ("--dirty-rate", bytes(self.dirty_rate)),
            ("--hot", self.hot.to_string()),
            ("--locality", self.locality.word().to_owned()),
            ("--entropy", self.entropy.to_string()),
            ("--shared", self.shared.to_string()),
            ("--threads", self.threads.to_string()),
            ("--processes", self.processes.to_string()),
        ];
        let pairs = pairs
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("workload".to_owned())
            .chain(pairs)
            .chain(self.touch.then(|| "--touch".to_owned()))
            .collect()
    }

    /// The part of one process.
    pub(super) fn of_one_process(&self) -> Self {
        let share = |all: ByteSize| ByteSize(all.as_u64() / u64::from(self.processes));
        Self {
            size: share(self.size),
            dirty_rate: share(self.dirty_rate),
            processes: 1,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        shape: Shape,
    }

    #[test]
    fn a_command_line_says_everything() {
        let shape = Shape {
            size: ByteSize(12345),
            locality: Locality::HotSet,
            touch: true,
            shared: 30,
            threads: 4,
            ..Shape::default()
        };
        let parsed = Cli::parse_from(shape.arguments()).shape;
        assert_eq!(format!("{parsed:?}"), format!("{shape:?}"));
        let default = Cli::parse_from(["x"]).shape;
        assert_eq!(format!("{default:?}"), format!("{:?}", Shape::default()));
    }
}
