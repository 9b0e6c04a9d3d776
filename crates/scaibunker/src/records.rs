//! Objects of the API as commands show them: as JSON, as ids alone, or to people.

use comfy_table::Table;

use crate::{
    client::{Client, ClientError, Object},
    exit::Failure,
    object_ref,
    output::Output,
};

/// Writes a list.
pub fn list<O: Object>(
    output: Output,
    objects: &[O],
    table: impl FnOnce(&[O]) -> Table,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(&objects);
    }
    if output.is_quiet() {
        return output.ids(objects.iter().map(O::id));
    }
    output.table(&table(objects))
}

/// Writes one object with all its fields.
pub fn one<O: Object>(
    output: Output,
    object: &O,
    fields: impl FnOnce(&O) -> Table,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(object);
    }
    if output.is_quiet() {
        return output.ids([object.id()]);
    }
    output.table(&fields(object))
}

/// Writes an object that was just made: its id is what the next command needs.
pub fn made<O: Object>(output: Output, object: &O) -> Result<(), Failure> {
    if output.is_json() { output.document(object) } else { output.ids([object.id()]) }
}

/// Deletes the objects that `texts` name, and prints the ids of those that are gone. The first
/// that cannot be deleted ends it.
pub async fn remove<O: Object>(
    client: &Client,
    output: Output,
    texts: &[String],
) -> Result<(), Failure> {
    let mut removed = Vec::new();
    let mut failure: Option<ClientError> = None;
    for id in object_ref::resolve_all::<O>(client, texts).await? {
        match client.delete::<O>(id).await {
            Ok(()) => removed.push(id.to_string()),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    if output.is_json() {
        output.document(&removed)?;
    } else {
        output.ids(removed)?;
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
