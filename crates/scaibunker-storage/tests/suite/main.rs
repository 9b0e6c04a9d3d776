//! One suite, run over a directory and over a real S3 server.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod bounds;
mod chaos;
#[path = "../common/mod.rs"]
mod common;
mod listing;
mod objects;
mod outages;
mod segments;
mod signed;
mod stage;
mod storage_proxy_401s;
mod uploads;

/// Runs each test over both stores.
macro_rules! suite {
    ($($module:ident: $($test:ident)*;)*) => {
        mod directory {
            $($(
                #[tokio::test]
                async fn $test() {
                    crate::$module::$test(crate::stage::Stage::directory()).await;
                }
            )*)*
        }
        mod s3 {
            $($(
                #[tokio::test]
                async fn $test() {
                    crate::$module::$test(crate::stage::Stage::s3()).await;
                }
            )*)*
        }
    };
}

suite! {
    objects: what_is_put_can_be_read_and_replaced
        ranges_are_honoured
        unchanged_objects_are_not_sent_again
        deleting_is_idempotent
        nothing_outside_of_the_known_kinds_is_reached
        only_the_worker_token_opens_it;
    segments: an_output_in_segments_reads_as_one_object
        a_gap_ends_an_output
        an_output_grows_between_reads
        an_output_is_deleted_with_its_segments;
    uploads: a_broken_upload_leaves_what_was_there
        a_client_that_goes_away_leaves_nothing
        old_uploads_are_removed
        a_large_object_arrives_bit_for_bit;
    signed: a_signed_url_stores_its_object_until_it_expires
        a_changed_signed_url_is_refused
        the_signature_alone_decides;
    storage_proxy_401s: the_proxy_verifies_a_worker_token_and_capability_tokens
        a_mismatch_of_the_worker_token_is_named
        the_capability_secret_must_be_set_on_both;
}
