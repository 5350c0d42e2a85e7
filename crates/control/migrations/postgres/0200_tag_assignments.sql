-- What each tag of a template was given to, and when: template_tags has only the last. Goes with the tag, and with the
-- template.
CREATE TABLE template_tag_assignments (
    id TEXT PRIMARY KEY,                     -- a UUID
    template_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    build_id TEXT NOT NULL,
    assigned_at BIGINT NOT NULL
);
CREATE INDEX template_tag_assignments_by_tag ON template_tag_assignments (template_id, tag, assigned_at, id);

INSERT INTO template_tag_assignments (id, template_id, tag, build_id, assigned_at)
SELECT substr(bits, 1, 8) || '-' || substr(bits, 9, 4) || '-4' || substr(bits, 14, 3) || '-8' || substr(bits, 18, 3)
       || '-' || substr(bits, 21, 12), template_id, tag, build_id, created_at
FROM (SELECT md5(template_id || ':' || tag || ':' || random()) AS bits, template_id, tag, build_id, created_at
      FROM template_tags) AS given;
