//! Tests of the live site.
