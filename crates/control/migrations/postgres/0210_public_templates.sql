-- Templates that a team has published: every team of the installation may make sandboxes of them. A change of that is an
-- event of the template's, as others are.
ALTER TABLE templates ADD COLUMN public BOOLEAN NOT NULL DEFAULT FALSE;

DROP TRIGGER templates_changed ON templates;
CREATE TRIGGER templates_changed AFTER UPDATE OF name, digest, driver, vcpus, memory_mb, disk_mb, public ON templates
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name OR OLD.digest IS DISTINCT FROM NEW.digest
        OR OLD.driver IS DISTINCT FROM NEW.driver OR OLD.vcpus IS DISTINCT FROM NEW.vcpus
        OR OLD.memory_mb IS DISTINCT FROM NEW.memory_mb OR OLD.disk_mb IS DISTINCT FROM NEW.disk_mb
        OR OLD.public IS DISTINCT FROM NEW.public)
    EXECUTE FUNCTION record_template_event();
