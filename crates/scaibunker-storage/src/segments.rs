//! Outputs that are stored in segments while their command runs: `{key}/000000`, `{key}/000001`, …

use std::{ops::Range, sync::Arc};

use axum::BoxError;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectMeta, ObjectStore, path::Path};
use sha2::{Digest as _, Sha256};

use crate::{key, read};

/// Stands for the size of a segment that is not there.
const MISSING: u64 = u64::MAX;

/// What there is below the key of an output.
pub(crate) enum Listed {
    Nothing,
    WithoutBeginning,
    Segments(Segments),
}

/// What was stored of an output when it was listed: never empty.
#[derive(Debug)]
pub(crate) struct Segments {
    place: Path,
    /// In bytes, in the order of the segments.
    sizes: Vec<u64>,
    e_tag: String,
}

impl Segments {
    /// The segments below `place` up to the first that is missing.
    pub(crate) async fn list(store: &dyn ObjectStore, place: Path) -> object_store::Result<Listed> {
        let mut sizes = Vec::new();
        let mut tag = 0u128;
        let mut is_empty = true;
        let mut listed = store.list(Some(&place));
        while let Some(meta) = listed.try_next().await? {
            is_empty = false;
            let Some(number) = number_of(&meta.location, &place) else { continue };
            if sizes.len() <= number {
                sizes.resize(number + 1, MISSING);
            }
            sizes[number] = meta.size;
            // A sum, since a store may list them in any order.
            tag = tag.wrapping_add(state_of(number, &meta));
        }
        if is_empty {
            return Ok(Listed::Nothing);
        }
        let end = sizes.iter().position(|size| *size == MISSING).unwrap_or(sizes.len());
        sizes.truncate(end);
        if sizes.is_empty() {
            return Ok(Listed::WithoutBeginning);
        }
        Ok(Listed::Segments(Self { place, sizes, e_tag: format!("\"{tag:x}\"") }))
    }

    pub(crate) fn size(&self) -> u64 {
        self.sizes.iter().sum()
    }

    pub(crate) fn e_tag(&self) -> &str {
        &self.e_tag
    }

    /// The bytes of `range`, one segment at a time.
    pub(crate) fn read(
        self,
        store: Arc<dyn ObjectStore>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
        let Self { place, sizes, .. } = self;
        stream::iter(overlaps(sizes, range))
            .then(move |(number, part)| {
                let store = Arc::clone(&store);
                let place = place.clone().join(key::segment_name(number));
                async move { read_part(store.as_ref(), place, part).await }
            })
            .try_flatten()
    }
}

fn number_of(location: &Path, output: &Path) -> Option<usize> {
    let mut below = location.prefix_match(output)?;
    let number = key::segment_number(below.next()?.as_ref())?;
    below.next().is_none().then_some(number)
}

/// A number that changes when the segment does.
fn state_of(number: usize, meta: &ObjectMeta) -> u128 {
    let changed = meta.last_modified.timestamp_micros();
    let digest = Sha256::digest(format!("{number} {} {changed} {:?}", meta.size, meta.e_tag));
    digest.iter().take(16).fold(0, |state, byte| state << 8 | u128::from(*byte))
}

async fn read_part(
    store: &dyn ObjectStore,
    place: Path,
    part: Range<u64>,
) -> Result<impl Stream<Item = Result<Bytes, BoxError>> + Send + use<>, BoxError> {
    Ok(read::pieces(read::open(store, &place, part, None).await?))
}

/// The segments that hold some of `range`, each with the part of it that is wanted.
fn overlaps(
    sizes: Vec<u64>,
    range: Range<u64>,
) -> impl Iterator<Item = (usize, Range<u64>)> + Send + 'static {
    let mut start = 0;
    sizes.into_iter().enumerate().filter_map(move |(number, size)| {
        let first = range.start.max(start) - start;
        let end = range.end.min(start + size).saturating_sub(start);
        start += size;
        (first < end).then_some((number, first..end))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_parts_of_a_range_make_it_up_in_order() {
        let input = bolero::produce::<(Vec<u8>, u16, u16)>();
        bolero::check!().with_test_time(Duration::from_secs(2)).with_generator(input).for_each(
            |(sizes, a, b)| {
                let sizes: Vec<u64> = sizes.iter().map(|size| u64::from(*size)).collect();
                let total: u64 = sizes.iter().sum();
                let (a, b) = (u64::from(*a).min(total), u64::from(*b).min(total));
                let range = a.min(b)..a.max(b);
                let starts: Vec<u64> = (0..sizes.len()).map(|n| sizes[..n].iter().sum()).collect();
                let mut at = range.start;
                for (number, part) in overlaps(sizes.clone(), range.clone()) {
                    assert!(part.end <= sizes[number]);
                    assert_eq!(starts[number] + part.start, at);
                    at = starts[number] + part.end;
                }
                assert_eq!(at, range.end);
            },
        );
    }
}
