//! The contract holds through failures: retries around a store that fails at every turn.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use lifeboat_store::{faulty::Faulty, memory::Memory, retry::Retrying};

use crate::{
    conformance::{self, Shared, races},
    held_to,
};

async fn open() -> (Shared, ()) {
    static SEEDS: AtomicU64 = AtomicU64::new(1);
    let seed = SEEDS.fetch_add(1, Ordering::Relaxed);
    let plan = format!(
        "seed={seed};any.fail:transient@p0.15;any.lose@p0.1;write.fail:unknown@p0.1;\
         range.truncate:5@p0.1"
    );
    let faulty = Faulty::new(Arc::new(Memory::new()), plan.parse().expect("a valid plan"));
    (Arc::new(Retrying::new(Arc::new(faulty))), ())
}

held_to!(open:
    conformance::what_was_put_is_read,
    conformance::put_replaces,
    conformance::what_is_absent_is_not_found,
    conformance::a_folder_is_no_object,
    conformance::delete_deletes,
    conformance::get_is_bounded,
    conformance::ranges_are_exact,
    conformance::create_is_refused_where_something_is,
    conformance::replace_needs_the_current_version,
    conformance::replace_of_nothing_is_a_conflict,
    conformance::replace_with_a_foreign_version_is_a_conflict,
    conformance::lists_are_in_byte_order,
    conformance::lists_tell_size_and_age,
    conformance::packs_go_in_parallel,
    conformance::describe_tells_where,
    races::one_creator_wins,
    races::one_replacer_wins,
);
