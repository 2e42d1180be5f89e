//! The settings file: TOML, every key a setting.
use super::{ConfigError, Origin, SETTINGS, Setting};
use std::{collections::BTreeMap, path::Path};

/// How similar a name must be (Jaro-Winkler, 0 to 1) to be taken for a misspelt setting.
const LIKE: f64 = 0.8;

/// Adds a file's settings to `given`.
pub(super) fn read(
    path: &Path,
    given: &mut BTreeMap<&'static str, (Vec<String>, Origin)>,
) -> Result<(), ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let syntax = |why: String| ConfigError::Syntax { path: path.into(), why };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| syntax(e.to_string()))?;
    for (key, value) in table {
        let setting = setting(&key).ok_or_else(|| ConfigError::UnknownKey {
            path: path.into(),
            key: key.clone(),
            nearest: nearest(&key),
        })?;
        let values: Option<Vec<String>> = match value {
            toml::Value::Boolean(on) if setting.flag => Some(vec![on.to_string()]),
            toml::Value::Array(values) if setting.repeats => values.iter().map(scalar).collect(),
            value => scalar(&value).map(|value| vec![value]),
        };
        let values = values.filter(|values| !values.is_empty()).ok_or_else(|| {
            let form = match setting {
                Setting { flag: true, .. } => "true or false",
                Setting { repeats: true, .. } => "a text or a list of texts",
                _ => "a text or a number",
            };
            syntax(format!("`{key}` must be {form}, as in {key} = \"{}\"", setting.value))
        })?;
        if given.insert(setting.key, (values, Origin::File)).is_some() {
            return Err(syntax(format!("`{}` is given twice, with - and with _", setting.key)));
        }
    }
    Ok(())
}

/// The setting a file key means: `check-interval` reads as `check_interval`, and a list may be in the plural.
fn setting(key: &str) -> Option<&'static Setting> {
    let key = key.replace('-', "_");
    SETTINGS.iter().find(|s| s.key == key || (s.repeats && key.strip_suffix('s') == Some(s.key)))
}

/// The setting with the most similar name, if any is similar.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let likeness = |setting: &Setting| strsim::jaro_winkler(key, setting.key);
    let nearest = SETTINGS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) >= LIKE).then_some(nearest.key)
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}
