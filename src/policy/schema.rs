//! The JSON Schema of policy files, for editors: completion, descriptions, and the mistakes that
//! show in a single file.
//!
//! Built here and not derived from types, because policies are read key by key without `serde`, and
//! because half of it is what an editor shows beside a key. The reader stays the judge: the schema
//! may know less than it (no schema counts days), and asks for plain spellings where the reader is
//! lenient, but never lets an editor offer what the reader refuses. Tests hold the two together.
//!
//! **Does not know:** other files, which hosts there are, what any value leads to.

use serde_json::{Map, Value, json};

use super::Inhibitor;
use super::calendar::zone_names;

/// The schema of one policy file, as JSON Schema draft 2020-12.
pub fn schema() -> Value {
    let mut schema = section(
        "A policy file of spot. All files of the folder are read together.",
        &[],
        [
            ("timezone", shared("zone")),
            ("hosts", hosts()),
            ("guests", list("Where guests run. The first rule that matches counts.", guest())),
            ("policies", list("When hosts are wanted awake.", policy())),
            ("quorum", quorum()),
            ("migrations", migrations()),
        ],
    );
    let head = schema.as_object_mut().expect("a section is a mapping");
    head.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    head.insert("title".into(), json!("spot policy"));
    head.insert("$defs".into(), words());
    schema
}

/// A mapping with these keys and no others.
fn section<const N: usize>(
    description: &str,
    required: &[&str],
    keys: [(&str, Value); N],
) -> Value {
    let keys: Map<String, Value> =
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    json!({
        "type": "object",
        "description": description,
        "required": required,
        "additionalProperties": false,
        "properties": keys,
    })
}

fn list(description: &str, items: Value) -> Value {
    json!({"type": "array", "description": description, "items": items})
}

/// A word that stands under `$defs`.
fn shared(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// The same, with what it means here.
fn meaning(name: &str, description: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}"), "description": description})
}

fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn choice(description: &str, words: &[&str]) -> Value {
    json!({"enum": words, "description": description})
}

/// One of it, or a list.
fn one_or_more(description: &str, item: Value) -> Value {
    let many = json!({"type": "array", "items": item, "minItems": 1});
    json!({"description": description, "anyOf": [item, many]})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "minLength": 1, "pattern": r"\S", "description": description})
}

/// What stands at more than one place.
fn words() -> Value {
    json!({
        "zone": {
            "description": "IANA time zone of the times in this file or policy.",
            "enum": zone_names(),
        },
        "host": {
            "type": "string",
            "description": "Name of a host under `hosts`, in this file or another.",
            "pattern": HOST,
        },
        "length": {
            "type": "string",
            "description": "A duration: `90s`, `10m`, `4h30m`, `2d`.",
            "allOf": [{"pattern": r"^\s*[0-9]"}, {"pattern": duration()}],
        },
        "some_length": {
            "description": "A duration of at least a second: `90s`, `10m`, `4h30m`, `2d`.",
            "allOf": [{"$ref": "#/$defs/length"}, {"not": {"pattern": r"^[0a-z\s]*$"}}],
        },
        "cron": cron(),
        "window": window(),
    })
}

const HOST: &str = "^[0-9A-Za-z][0-9A-Za-z_.-]{0,62}$";
const CREDENTIAL: &str = "^[0-9A-Za-z_-][0-9A-Za-z_.-]{0,63}$";
/// The first of the six pairs is even: an odd one is a group's.
const MAC: &str = "^[0-9A-Fa-f][02468ACEace]([:-][0-9A-Fa-f]{2}){5}$";
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]{1,3})?\s*(B|[KMGT]|[KMGT]iB|[kKMGT]B)\s*$";
const SHARE: &str = r"^\s*([0-8]?[0-9]|90)\s*%\s*$";
const BANDWIDTH: &str =
    r"^\s*[0-9]+(\.[0-9]{1,3})?\s*(B|[KMGT]|[KMGT]iB|[kKMGT]B|[kKMG]bit)\s*/s\s*$";
const ADDRESS: &str = r"^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(\.|$)){4}$";

/// Each unit at most once, the larger first.
fn duration() -> String {
    let units = ["w|weeks?", "d|days?", "h|hours?", "m|min|minutes?", "s|sec|seconds?"];
    let parts: String = units.iter().map(|unit| format!(r"([0-9]+\s*({unit})\s*)?")).collect();
    format!(r"^\s*{parts}$")
}

/// Five fields or six with the seconds first, of which at most one says which days.
fn cron() -> Value {
    let names = |full: &[&str]| {
        let any_case = |letter: char| format!("[{}{letter}]", letter.to_ascii_uppercase());
        let word = |name: &&str| {
            let (short, rest): (String, String) = (
                name.chars().take(3).map(any_case).collect(),
                name.chars().skip(3).map(any_case).collect(),
            );
            format!("{short}({rest})?")
        };
        full.iter().map(word).collect::<Vec<_>>().join("|")
    };
    let months = names(&[
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ]);
    let weekdays =
        names(&["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]);
    let field = |number: &str| {
        let part = format!(r"(\*(/[0-9]{{1,2}})?|({number})(-({number})(/[0-9]{{1,2}})?)?)");
        format!("{part}(,{part})*")
    };
    let minute = field("[0-5]?[0-9]");
    let hour = field("[01]?[0-9]|2[0-3]");
    let day = field("0?[1-9]|[12][0-9]|3[01]");
    let month = field(&format!("0?[1-9]|1[0-2]|{months}"));
    let weekday = field(&format!("0?[0-7]|{weekdays}"));
    let any = r"[*?]";
    let whole = |day: &str, weekday: &str| {
        json!({"pattern":
            format!(r"^\s*({minute}\s+)?{minute}\s+{hour}\s+{day}\s+{month}\s+{weekday}\s*$")})
    };
    json!({
        "type": "string",
        "description": "Five fields as in crontab, `minute hour day-of-month month day-of-week`, \
                        such as `0 8 * * Mon-Fri`; or six with the seconds first. Set the day of \
                        the month or the day of the week, not both.",
        "anyOf": [whole(any, &weekday), whole(&day, any)],
    })
}

fn window() -> Value {
    let keys = section(
        "A stretch of time that recurs. It has one end: `for` or `to`.",
        &["from"],
        [
            ("from", meaning("cron", "When it opens, such as `0 8 * * Mon-Fri`.")),
            ("for", meaning("some_length", "How long it is open, in elapsed time: `10h`.")),
            ("to", meaning("cron", "When it closes: the first such time after it opened.")),
        ],
    );
    with(keys, "oneOf", json!([{"required": ["for"]}, {"required": ["to"]}]))
}

/// A section with one more rule.
fn with(mut section: Value, key: &str, rule: Value) -> Value {
    section.as_object_mut().expect("a section is a mapping").insert(key.into(), rule);
    section
}

fn hosts() -> Value {
    json!({
        "type": "object",
        "description": "Every host of the cluster, by the name you use for it.",
        "propertyNames": {"pattern": HOST},
        "additionalProperties": host(),
    })
}

fn host() -> Value {
    let mac = json!({
        "type": "string",
        "pattern": MAC,
        "not": {"pattern": "^[0:-]*$"},
    });
    let reserve = json!({
        "type": "string",
        "description": "Memory kept free of guests: a share such as `10 %` (the default) or a size \
                        such as `2 GiB`.",
        "anyOf": [{"pattern": SHARE}, {"pattern": SIZE}],
    });
    let ahead = json!({
        "description": "How early a wake begins before a window: `auto` (the default: by the boot \
                        times seen) or a duration.",
        "anyOf": [{"const": "auto"}, {"const": 0}, {"$ref": "#/$defs/length"}],
    });
    let name = json!({"type": "string", "pattern": HOST,
        "description": "PVE's name of this host, where it differs from yours."});
    section(
        "One host.",
        &["tier"],
        [
            (
                "tier",
                choice(
                    "How dear it is to run. `low` is always on and never powered off; `medium` and \
                     `high` sleep unless something wants them.",
                    &["low", "medium", "high"],
                ),
            ),
            ("node", name),
            ("mac", one_or_more("Of the network card that listens for magic packets.", mac)),
            ("wake", wake()),
            ("boot_within", meaning("some_length", "Silent after that, a wake has failed. 10m.")),
            ("min_on", meaning("length", "Not put to sleep sooner after it came up. 15m.")),
            (
                "min_off",
                meaning(
                    "length",
                    "What a sleep has to be worth; never delays a command, a window or a rescue. \
                     10m.",
                ),
            ),
            ("lease", meaning("some_length", "What `spot up` means without `--for`. 4h.")),
            (
                "quiet",
                with(
                    list(
                        "Never woken by policies in these windows; `spot up` still wakes it.",
                        shared("window"),
                    ),
                    "minItems",
                    json!(1),
                ),
            ),
            (
                "enforce",
                flag("Powered off outside its windows even when somebody else switched it on."),
            ),
            ("ahead", ahead),
            ("serves", list("What others need of this host.", serves())),
            (
                "busy_while",
                one_or_more(
                    "Checks that keep it awake; what they run is in spot.yaml.",
                    text("Name of a check in spot.yaml."),
                ),
            ),
            ("reserve", reserve),
            ("inhibit", inhibit()),
            ("watts", watts()),
        ],
    )
}

fn wake() -> Value {
    let broadcast = json!({
        "type": "string",
        "pattern": ADDRESS,
        "description": "Broadcast address of its network, such as 192.168.1.255.",
    });
    let interface = json!({
        "type": "string",
        "pattern": r"^[^/\s]{1,15}$",
        "description": "The packets leave by this interface only, such as vmbr0.",
    });
    let credential = json!({
        "type": "string",
        "pattern": CREDENTIAL,
        "description": "Its name; the password itself stays out of git.",
    });
    section(
        "How it is woken, where the plain way does not reach it.",
        &[],
        [
            ("broadcast", broadcast),
            ("interface", interface),
            (
                "password",
                section("The SecureOn password.", &["credential"], [("credential", credential)]),
            ),
            (
                "relay",
                meaning("host", "Another host that sends PVE's own packet as a second path."),
            ),
            ("proven", flag("You vouch that it wakes, so `spot prove` is not needed.")),
        ],
    )
}

fn serves() -> Value {
    let storage = section(
        "A storage that others use.",
        &["storage", "busy_when"],
        [
            ("storage", text("The storage's name in PVE.")),
            ("busy_when", choice("What makes it needed.", &["guests", "backups"])),
        ],
    );
    let qnetd = section(
        "The QDevice's server.",
        &["qnetd"],
        [("qnetd", flag("The QDevice's server lives on this host."))],
    );
    json!({"anyOf": [storage, qnetd]})
}

fn inhibit() -> Value {
    let keys: Map<String, Value> = Inhibitor::ALL
        .iter()
        .map(|(name, _)| ((*name).to_owned(), flag("`false`: this does not keep it awake.")))
        .collect();
    json!({
        "type": "object",
        "description": "What keeps it awake; everything does unless it is switched off here.",
        "additionalProperties": false,
        "properties": keys,
    })
}

fn watts() -> Value {
    let figure = |description: &str| {
        let (least, most) = (0, 20_000);
        json!({"type": "number", "minimum": least, "maximum": most, "description": description})
    };
    section(
        "What it draws, for estimates only.",
        &["off", "idle", "busy"],
        [
            ("off", figure("Asleep.")),
            ("idle", figure("Awake without work.")),
            ("busy", figure("At full load.")),
        ],
    )
}

fn guest() -> Value {
    let prefer = one_or_more(
        "It runs on the first of these that is awake, wanted and ready.",
        shared("host"),
    );
    let keys = section(
        "Where guests of one kind belong.",
        &["match"],
        [
            ("match", matches()),
            ("prefer", prefer),
            ("otherwise", otherwise()),
            ("restart", flag("A container may move by a restart.")),
            ("pinned", flag("Never moved; its host stays awake while it runs.")),
            (
                "local_disks",
                choice(
                    "What becomes of disks that lie on its host: it moves only where they are \
                     replicated (the default), they move with it, or it stays.",
                    &["replicated", "move", "stay"],
                ),
            ),
            ("apart", text("Guests of one name stay on different hosts.")),
        ],
    );
    // PVE cannot hibernate a container.
    let container = json!({"required": ["type"], "properties": {"type": {"const": "ct"}}});
    let hibernated = json!({
        "required": ["match", "otherwise"],
        "properties": {"match": container, "otherwise": {"type": "object"}},
    });
    with(keys, "not", hibernated)
}

fn matches() -> Value {
    let vmid = json!({"type": "integer", "minimum": 100, "maximum": 999_999_999});
    let keys = section(
        "Which guests; all that is named must hold.",
        &[],
        [
            ("vmid", one_or_more("Numbers of guests.", vmid)),
            ("name", text("A name in which `*` stands for any characters: `web-*`.")),
            ("tag", text("A tag.")),
            ("pool", text("A resource pool.")),
            ("type", choice("`vm` or `ct` (container).", &["vm", "ct"])),
            ("any", json!({"const": true, "description": "Every guest; write it last."})),
        ],
    );
    with(keys, "minProperties", json!(1))
}

fn otherwise() -> Value {
    const ELSE: &[&str] = &["migrate", "shutdown", "keep-awake"];
    let or = choice("What happens where PVE refuses to hibernate.", ELSE);
    let hibernate = section(
        "Suspended to disk, and resumed when a preferred host is back.",
        &["hibernate"],
        [("hibernate", section("Suspended to disk.", &["else"], [("else", or)]))],
    );
    json!({
        "description": "What happens when none of the preferred hosts is awake.",
        "anyOf": [{"enum": ELSE}, hibernate],
    })
}

fn policy() -> Value {
    let name = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "pattern": r"^[^\x00-\x1f]*\S[^\x00-\x1f]*$",
        "description": "Shown wherever this policy acts; unique over all files.",
    });
    let except = one_or_more(
        "No window opens on these dates: `2026-12-24`, `2026-12-24..2027-01-02`, or every year \
         `05-01`, `12-24..01-02`.",
        json!({"type": "string", "pattern": dates()}),
    );
    let backups = section(
        "PVE's own backup jobs open the window, and it closes when they have ended.",
        &["storage"],
        [
            ("storage", text("The storage the jobs write to.")),
            ("before", meaning("length", "So long before the jobs begin.")),
        ],
    );
    let run = list("The windows.", shared("window"));
    let keys = section(
        "One named policy: which hosts it wants awake, and when.",
        &["name", "hosts"],
        [
            ("name", name),
            ("hosts", one_or_more("Those it wants awake.", shared("host"))),
            ("timezone", shared("zone")),
            ("run", with(run, "minItems", json!(1))),
            ("except", except),
            ("for_backups", backups),
        ],
    );
    with(keys, "anyOf", json!([{"required": ["run"]}, {"required": ["for_backups"]}]))
}

/// A date or a range of dates, both ends with a year or both without.
fn dates() -> String {
    let day = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|\
               02-(0[1-9]|[12][0-9]))";
    let dated = format!("[0-9]{{4}}-{day}");
    format!(r"^\s*({dated}(\s*\.\.\s*{dated})?|{day}(\s*\.\.\s*{day})?)\s*$")
}

fn quorum() -> Value {
    let spare = json!({
        "type": "integer",
        "minimum": 0,
        "maximum": 1000,
        "description": "Votes kept above the bare majority after every power-off. 0.",
    });
    section(
        "How carefully votes are kept. It stands once over all files.",
        &[],
        [
            ("spare", spare),
            (
                "evidence",
                choice(
                    "`runtime`: votes as the members themselves count them (the default). \
                     `configured`: only those of corosync.conf, which is weaker.",
                    &["runtime", "configured"],
                ),
            ),
            (
                "rescue",
                choice(
                    "Short of votes, sleeping hosts that can help are woken, or you are told.",
                    &["wake", "tell"],
                ),
            ),
        ],
    )
}

fn migrations() -> Value {
    let per_host = json!({
        "type": "integer",
        "minimum": 1,
        "maximum": 16,
        "description": "Migrations at once from or to one host. 1.",
    });
    let bandwidth = json!({
        "type": "string",
        "pattern": BANDWIDTH,
        "description": "Limit for each, such as `110 MiB/s` or `1 Gbit/s`.",
    });
    section(
        "How guests move. It stands once over all files.",
        &[],
        [("per_host", per_host), ("bandwidth", bandwidth)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cases::{DOUBTFUL, EVERY_KEY, SOUND, WRONG};

    fn validator() -> jsonschema::Validator {
        jsonschema::draft202012::new(&schema()).expect("the schema is a schema")
    }

    /// A YAML text as an editor sees it; `None` if it is broken.
    fn seen(text: &str) -> Option<Value> {
        serde_json::to_value(serde_yaml::from_str::<serde_yaml::Value>(text).ok()?).ok()
    }

    /// Replacements in [`WRONG`] that need a calendar, another key or another place to be seen.
    const BEYOND_A_SCHEMA: &[&str] = &[
        "[hots3]",
        "[host1]",
        "\"0 8 30 2 *\"",
        "to: \"0 8 * * 1-5\"",
        "for: 99999999999w",
        "for: 400d",
        "for: 30h",
        "*\", for: 30h",
        "low, wake: { relay: host1 } }",
        "low, watts: { off: 2, idle: 1, busy: 9 } }",
        "low, node: host3 }",
        "low, mac: a8:a1:59:00:00:03 }",
        "hosts: [host3]\n    except: [01-01..12-31]",
        "guests: [{ match: { any: true }, prefer: [host4] }]\npolicies:",
        "guests: [{ match: { any: true }, pinned: true, otherwise: migrate }]\npolicies:",
    ];

    #[test]
    fn it_accepts_what_the_reader_accepts() {
        let validator = validator();
        let accepts = |text: &str| {
            let found = seen(text).expect("it is YAML");
            let faults: Vec<String> = validator
                .iter_errors(&found)
                .map(|fault| format!("{}: {fault}", fault.instance_path()))
                .collect();
            assert!(faults.is_empty(), "{faults:#?}\n{text}");
        };
        accepts(SOUND);
        accepts(EVERY_KEY);
        accepts(include_str!("../../policies/homelab.yaml"));
        for (old, new, _) in DOUBTFUL {
            accepts(&SOUND.replacen(old, new, 1));
        }
    }

    #[test]
    fn it_refuses_every_mistake_that_a_schema_can_see() {
        let validator = validator();
        for (old, new, _, _) in WRONG {
            let text = SOUND.replacen(old, new, 1);
            // A text that is not YAML, or holds a key twice, is refused by the editor before.
            let Some(found) = seen(&text) else { continue };
            let beyond = BEYOND_A_SCHEMA.contains(new);
            assert_eq!(validator.is_valid(&found), beyond, "{new}");
        }
        for beyond in BEYOND_A_SCHEMA {
            assert!(WRONG.iter().any(|(_, new, _, _)| new == beyond), "{beyond} is no case");
        }
    }

    /// Every key of a schema, wherever it stands.
    fn keys(schema: &Value, found: &mut std::collections::BTreeSet<String>) {
        match schema {
            Value::Object(entries) => {
                if let Some(Value::Object(properties)) = entries.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                entries.values().for_each(|inner| keys(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| keys(inner, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn it_knows_no_key_that_the_reader_does_not() {
        let mut found = Default::default();
        keys(&schema(), &mut found);
        let more = "any: else: hibernate: replication: locks: ceph: ha: stay_tag: restart: pinned:";
        for key in found {
            let stands =
                EVERY_KEY.contains(&format!("{key}:")) || more.contains(&format!("{key}:"));
            assert!(stands, "{key} is in the schema and in no policy that is read");
        }
    }

    #[test]
    fn a_cron_expression_is_judged_as_the_reader_judges_it() {
        let word = with(json!({"$ref": "#/$defs/cron"}), "$defs", words());
        let validator = jsonschema::draft202012::new(&word).unwrap();
        for (text, fits) in [
            ("0 8 * * Mon-Fri", true),
            ("0 0 8 * * 1-5", true),
            ("*/15 8-17/2 1,15 jan-MAR *", true),
            ("0 8 ? * Sunday", true),
            ("0 8 * * 7", true),
            ("60 8 * * *", false),
            ("0 24 * * *", false),
            ("0 8 32 * *", false),
            ("0 8 13 * Fri", false),
            ("0 8 * *", false),
            ("0 0 0***", false),
            ("@daily", false),
            ("0 0 0 8 * * *", false),
        ] {
            assert_eq!(validator.is_valid(&json!(text)), fits, "{text}");
            assert_eq!(text.parse::<crate::policy::crontab::Crontab>().is_ok(), fits, "{text}");
        }
    }
}
