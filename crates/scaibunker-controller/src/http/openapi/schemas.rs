//! The schemas that the document refers to.
//!
//! A type that is taken and answered may look different each way: what has a default need not be
//! sent, but is always there in an answer. Where they differ, what is taken is called `…Input`.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use crate::http::route::SchemaOf;

const PLACE: &str = "/components/schemas";

/// Collects schemas while the document is written.
pub(super) struct Schemas {
    taken: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = PLACE.into();
            settings
        };
        Self {
            taken: settings().for_deserialize().into_generator(),
            answered: settings().for_serialize().into_generator(),
        }
    }

    pub(super) fn taken(&mut self, of: SchemaOf) -> Value {
        of(&mut self.taken).to_value()
    }

    pub(super) fn answered(&mut self, of: SchemaOf) -> Value {
        of(&mut self.answered).to_value()
    }

    /// All that was referred to, and the names which what is taken goes by instead of its own.
    pub(super) fn into_components(mut self) -> (Map<String, Value>, Vec<String>) {
        let mut components = self.answered.take_definitions(true);
        let taken = self.taken.take_definitions(true);
        let differs = |name: &String, schema: &Value| {
            components.get(name).is_some_and(|answered| answered != schema)
        };
        let mut renamed: Vec<String> = taken
            .iter()
            .filter(|(name, schema)| differs(name, schema))
            .map(|(name, _)| name.clone())
            .collect();
        // What holds something that is renamed differs by that.
        loop {
            let holders: Vec<String> = taken
                .iter()
                .filter(|(name, _)| components.contains_key(*name) && !renamed.contains(name))
                .filter(|(_, schema)| refers_to_any(schema, &renamed))
                .map(|(name, _)| name.clone())
                .collect();
            if holders.is_empty() {
                break;
            }
            renamed.extend(holders);
        }
        for (name, mut schema) in taken {
            rename(&mut schema, &renamed);
            let name = if renamed.contains(&name) { input_name(&name) } else { name };
            components.insert(name, schema);
        }
        (components, renamed)
    }
}

fn input_name(name: &str) -> String {
    format!("{name}Input")
}

fn name_in(reference: &Value) -> Option<&str> {
    reference.as_str()?.strip_prefix('#')?.strip_prefix(PLACE)?.strip_prefix('/')
}

fn refers_to_any(schema: &Value, names: &[String]) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(key, value)| {
            let is_named = key == "$ref"
                && name_in(value).is_some_and(|name| names.iter().any(|other| other == name));
            is_named || refers_to_any(value, names)
        }),
        Value::Array(items) => items.iter().any(|item| refers_to_any(item, names)),
        _ => false,
    }
}

/// Makes every reference to a renamed schema one to its new name.
pub(super) fn rename(schema: &mut Value, renamed: &[String]) {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                let new = (key == "$ref")
                    .then(|| name_in(value))
                    .flatten()
                    .filter(|name| renamed.iter().any(|other| other == name))
                    .map(|name| format!("#{PLACE}/{}", input_name(name)));
                match new {
                    Some(new) => *value = Value::String(new),
                    None => rename(value, renamed),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}
