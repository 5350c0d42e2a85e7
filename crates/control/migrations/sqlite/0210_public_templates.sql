-- Templates that a team has published: every team of the installation may make sandboxes of them. A change of that is an
-- event of the template's, as others are.
ALTER TABLE templates ADD COLUMN public BOOLEAN NOT NULL DEFAULT FALSE;

DROP TRIGGER templates_changed;
CREATE TRIGGER templates_changed AFTER UPDATE OF name, digest, driver, vcpus, memory_mb, disk_mb, public ON templates
WHEN OLD.name IS NOT NEW.name OR OLD.digest IS NOT NEW.digest OR OLD.driver IS NOT NEW.driver
    OR OLD.vcpus IS NOT NEW.vcpus OR OLD.memory_mb IS NOT NEW.memory_mb
    OR OLD.disk_mb IS NOT NEW.disk_mb OR OLD.public IS NOT NEW.public
BEGIN
    INSERT INTO events (at, team_id, type, subject_id, data)
    VALUES (NEW.updated_at, NEW.team_id, NEW.kind || '.updated', NEW.id,
            json_object('name', NEW.name));
END;
