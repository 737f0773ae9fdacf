//! Namespaces and trees of processes.

use std::process::{Command, Stdio};

use lifeboat_sys::{
    namespace::{self, Namespace, NamespaceKind},
    pidfd::Pidfd,
    spawn::{ChildSetup, EnteredNamespace},
};
use rustix::process::{Pid, getpid};

use crate::support::{self, Child};

/// The init of fresh pid, mount, uts and ipc namespaces, with `/proc` of its own.
fn fresh_namespaces() -> (Child, Pidfd) {
    let mut outer = support::fork_with(|parent| {
        let flags =
            libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        // SAFETY: takes flags only.
        assert_eq!(unsafe { libc::unshare(flags) }, 0);
        let init = support::fork_with(|parent| {
            parent.send(0);
            parent.receive();
        });
        parent.send(u64::try_from(init.id()).unwrap());
        parent.receive();
    });
    let pid = i32::try_from(outer.receive()).unwrap();
    let init = Pidfd::open(Pid::from_raw(pid).unwrap()).unwrap();
    (outer, init)
}

#[test]
fn namespaces_are_the_same_or_not() {
    let own = Pidfd::open(getpid()).unwrap();
    let (_outer, init) = fresh_namespaces();
    for kind in NamespaceKind::ALL {
        let ours = Namespace::of(&own, kind).unwrap();
        let theirs = Namespace::of(&init, kind).unwrap();
        let fresh = matches!(
            kind,
            NamespaceKind::Pid | NamespaceKind::Mount | NamespaceKind::Uts | NamespaceKind::Ipc
        );
        assert_eq!(ours.id() != theirs.id(), fresh, "{kind:?}");
        assert_eq!(ours.id(), Namespace::of_this_thread(kind).unwrap().id());
        assert_eq!(theirs.kind(), kind);
    }
}

#[test]
fn a_process_has_a_number_in_each_pid_namespace() {
    let (_outer, init) = fresh_namespaces();
    let outside = init.pid().as_raw_nonzero().get();
    assert_eq!(namespace::pids_of(&init).unwrap(), [outside, 1]);
    assert_eq!(namespace::innermost_pid(&init).unwrap(), 1);
    let own = Pidfd::open(getpid()).unwrap();
    let number = getpid().as_raw_nonzero().get();
    assert_eq!(namespace::innermost_pid(&own).unwrap(), number);
}

#[test]
fn a_child_can_be_started_inside_of_other_namespaces() {
    let (_outer, init) = fresh_namespaces();
    let pid_namespace = Namespace::of(&init, NamespaceKind::Pid).unwrap();
    let before = Namespace::of_this_thread(NamespaceKind::Pid).unwrap().id();
    let mut setup = ChildSetup::new();
    for kind in [NamespaceKind::Uts, NamespaceKind::Ipc, NamespaceKind::Mount] {
        let entered = Namespace::of(&init, kind).unwrap();
        setup.enter(EnteredNamespace {
            fd: entered.into(),
            kinds: kind.clone_flag(),
        });
    }
    let mut command = Command::new("/bin/bash");
    let script = "echo $$; hostname inside; readlink /proc/self/ns/uts";
    command.args(["-c", script]).stdout(Stdio::piped());
    setup.apply(&mut command);
    let child = namespace::with_children_in(&pid_namespace, || command.spawn()).unwrap();
    let child = child.unwrap();
    let outside = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let inside: i32 = text.lines().next().unwrap().parse().unwrap();
    assert_ne!(inside, outside.as_raw_nonzero().get());
    assert!(inside < 100, "a young pid namespace: {inside}");
    assert_eq!(
        Namespace::of_this_thread(NamespaceKind::Pid).unwrap().id(),
        before
    );
    // Later children are at home again.
    let home = Command::new("/bin/bash")
        .args(["-c", "echo $$"])
        .output()
        .unwrap();
    assert!(home.status.success());
}

#[test]
fn a_tree_has_parents_before_children() {
    let mut root = support::fork_with(|parent| {
        let mut middle = support::fork_with(|parent| {
            let leaf = support::fork_with(|parent| {
                parent.receive();
            });
            parent.send(u64::try_from(leaf.id()).unwrap());
            parent.receive();
        });
        parent.send(u64::try_from(middle.id()).unwrap());
        parent.send(middle.receive());
        // Children belong to the thread that made them.
        let other = std::thread::spawn(|| {
            let other = support::fork_with(|parent| {
                parent.receive();
            });
            let id = other.id();
            (other, id)
        });
        let (_other, id) = other.join().unwrap();
        parent.send(u64::try_from(id).unwrap());
        parent.receive();
    });
    let mut next = || Pid::from_raw(i32::try_from(root.receive()).unwrap()).unwrap();
    let (middle, leaf, _other) = (next(), next(), next());
    let process = Pidfd::open(root.pid).unwrap();
    let tree = namespace::process_tree(&process).unwrap();
    assert_eq!((tree[0].pid, tree[0].parent), (root.pid, None));
    let place = |pid| tree.iter().position(|process| process.pid == pid).unwrap();
    assert_eq!(tree[place(middle)].parent, Some(root.pid));
    assert_eq!(tree[place(leaf)].parent, Some(middle));
    assert!(place(middle) < place(leaf));
    drop(root);
    assert!(namespace::process_tree(&process).unwrap_err().is_gone());
    assert!(namespace::pids_of(&process).unwrap_err().is_gone());
    assert!(
        Namespace::of(&process, NamespaceKind::Net)
            .unwrap_err()
            .is_gone()
    );
}
