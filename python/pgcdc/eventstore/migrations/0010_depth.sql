-- append() says by a setting that the trigger has nothing to do. The setting is there for all that the same statement does, so also for
-- a trigger of somebody's on the events that writes another one by a plain INSERT: what is written within a trigger is looked at in any
-- case. What append() writes there has advanced its stream already, and passes.
CREATE OR REPLACE TRIGGER advance_stream BEFORE INSERT ON {schema}.events FOR EACH ROW
    WHEN (current_setting('pgcdc.appending', true) IS DISTINCT FROM 'on' OR pg_trigger_depth() > 0) EXECUTE FUNCTION {schema}.advance_stream();
