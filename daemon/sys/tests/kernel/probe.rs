//! What the kernel allows.

use lifeboat_sys::probe::{Capability, Finding, Kernel};

use crate::support;

#[test]
fn everything_the_product_needs_is_found_here() {
    let kernel = Kernel::probe();
    assert!(kernel.tracks_writes(), "{kernel:?}");
    let needed = [
        ("pagemap scan", &kernel.pagemap_scan),
        ("userfaultfd", &kernel.userfaultfd),
        ("pidfd_getfd", &kernel.pidfd_getfd),
        ("memory of processes", &kernel.process_memory),
        ("clone3", &kernel.clone3),
        ("time namespaces", &kernel.time_namespaces),
        ("lists of children", &kernel.children_lists),
    ];
    for (name, finding) in needed {
        assert!(finding.works(), "{name}: {finding}");
    }
    assert!(kernel.has(Capability::SysPtrace) && kernel.has(Capability::SysAdmin));
    assert_eq!(kernel.page_size, 4096);
    assert_eq!(kernel.architecture, "x86_64");
    assert!(kernel.cpu_features.iter().any(|feature| feature == "sse2"));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(kernel.release, release.trim());
    assert!(kernel.overcommit_memory.is_some_and(|mode| mode <= 2));
}

#[test]
fn soft_dirty_is_found_exactly_where_the_kernel_was_built_with_it() {
    // `sd` appears among the flags of fresh mappings only with CONFIG_MEM_SOFT_DIRTY.
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let built_in = smaps
        .lines()
        .filter_map(|line| line.strip_prefix("VmFlags:"))
        .any(|flags| flags.split(' ').any(|flag| flag == "sd"));
    assert_eq!(Kernel::probe().soft_dirty.works(), built_in);
}

#[test]
fn what_is_missing_says_why() {
    support::fork(|| {
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setuid(65534) }, 0);
        let kernel = Kernel::probe();
        assert!(!kernel.has(Capability::SysPtrace));
        // A process without privileges may not look at its own frames, but may scan itself.
        let findings = [
            &kernel.pagemap_scan,
            &kernel.userfaultfd,
            &kernel.soft_dirty,
        ];
        for finding in findings {
            if let Finding::Missing { why } = finding {
                assert!(!why.is_empty());
            }
        }
    })
    .assert_success();
}
