//! The contract, for the stores of this machine: memory and folders.

mod memory {
    use std::sync::Arc;

    use crate::conformance::{self, Shared, races};
    use crate::held_to;
    use lifeboat_store::memory::Memory;

    async fn open() -> (Shared, ()) {
        (Arc::new(Memory::new()), ())
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
        conformance::lists_have_pages,
        conformance::long_keys_work,
        conformance::packs_go_in_parallel,
        conformance::describe_tells_where,
        races::one_creator_wins,
        races::one_replacer_wins,
        races::nothing_deleted_comes_back,
    );
}

mod folder {
    use std::sync::Arc;

    use crate::conformance::{self, Shared, races};
    use crate::held_to;
    use lifeboat_store::file::File;

    async fn open() -> (Shared, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        (
            Arc::new(File::open(dir.path()).expect("the store opens")),
            dir,
        )
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
        conformance::lists_have_pages,
        conformance::long_keys_work,
        conformance::packs_go_in_parallel,
        conformance::describe_tells_where,
        races::one_creator_wins,
        races::one_replacer_wins,
        races::nothing_deleted_comes_back,
    );
}
