-- A database of revision 0001 as the first meshd left it, with rows in every table. Recorded once; never edited.
BEGIN TRANSACTION;
CREATE TABLE agents (
	namespace VARCHAR NOT NULL,
	agent_id VARCHAR NOT NULL,
	type SMALLINT NOT NULL,
	name VARCHAR NOT NULL,
	capabilities_json VARCHAR NOT NULL,
	labels_json VARCHAR NOT NULL,
	host VARCHAR NOT NULL,
	port INTEGER NOT NULL,
	dns_name VARCHAR NOT NULL,
	slots INTEGER NOT NULL,
	lease_ttl_ms BIGINT NOT NULL,
	disconnected_grace_ms BIGINT NOT NULL,
	create_ms BIGINT NOT NULL,
	health SMALLINT NOT NULL,
	health_ms BIGINT NOT NULL,
	health_cause VARCHAR NOT NULL,
	revision BIGINT NOT NULL,
	last_seen_ms BIGINT NOT NULL,
	succeeded BIGINT NOT NULL,
	failed BIGINT NOT NULL,
	lost BIGINT NOT NULL,
	session_id VARCHAR NOT NULL,
	resume_hash BLOB NOT NULL,
	key_hash BLOB NOT NULL,
	session_slots INTEGER NOT NULL,
	session_start_ms BIGINT NOT NULL,
	CONSTRAINT pk_agents PRIMARY KEY (namespace, agent_id)
);
INSERT INTO "agents" VALUES('default','a',6,'Name','["x","y"]','{"k":"v"}','h',1,'d',3,4,5,1,2,2,'cause',6,7,8,9,10,'s',X'7272727272727272727272727272727272727272727272727272727272727272',X'6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B',11,12);
INSERT INTO "agents" VALUES('default','b',6,'Name','["x","y"]','{"k":"v"}','h',1,'d',3,4,5,1,2,2,'cause',6,7,8,9,10,'',X'',X'',0,0);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE attempts (
	task_key BIGINT NOT NULL,
	number INTEGER NOT NULL,
	agent_id VARCHAR NOT NULL,
	state SMALLINT NOT NULL,
	fence_number BIGINT NOT NULL,
	assign_ms BIGINT NOT NULL,
	end_ms BIGINT NOT NULL,
	failure_json VARCHAR NOT NULL,
	CONSTRAINT pk_attempts PRIMARY KEY (task_key, number)
)
 WITHOUT ROWID

;
INSERT INTO "attempts" VALUES(3,1,'a',5,1,1,2,'["E","m",true]');
INSERT INTO "attempts" VALUES(4,1,'a',4,2,1,2,'');
CREATE TABLE audit (
	id INTEGER NOT NULL,
	namespace VARCHAR NOT NULL,
	sequence BIGINT NOT NULL,
	time_ms BIGINT NOT NULL,
	subject VARCHAR NOT NULL,
	peer VARCHAR NOT NULL,
	method VARCHAR NOT NULL,
	object VARCHAR NOT NULL,
	allowed BOOLEAN NOT NULL,
	reason VARCHAR NOT NULL,
	count BIGINT NOT NULL,
	object_digest BLOB NOT NULL,
	previous_hash BLOB NOT NULL,
	hash BLOB NOT NULL,
	CONSTRAINT pk_audit PRIMARY KEY (id),
	CONSTRAINT uq_audit_namespace_sequence UNIQUE (namespace, sequence)
);
INSERT INTO "audit" VALUES(1,'default',1,1700000000000,'operator:local','socket','SubmitTask','task:t1',1,'',1,X'6464646464646464646464646464646464646464646464646464646464646464',X'0000000000000000000000000000000000000000000000000000000000000000',X'D27C94A1B015047C5A273174F127BFDAE152836DB8A3BAFD4D16C05DB898EE95');
CREATE TABLE identities (
	namespace VARCHAR NOT NULL,
	agent_id VARCHAR NOT NULL,
	agent_type SMALLINT NOT NULL,
	capabilities_json VARCHAR NOT NULL,
	public_key BLOB NOT NULL,
	family VARCHAR NOT NULL,
	expire_ms BIGINT NOT NULL,
	generation BIGINT NOT NULL,
	CONSTRAINT pk_identities PRIMARY KEY (namespace, agent_id)
);
INSERT INTO "identities" VALUES('default','a',2,'["*"]',X'6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B6B','a.0.r',35184372088832,0);
CREATE TABLE join_tokens (
	token_hash BLOB NOT NULL,
	namespace VARCHAR NOT NULL,
	agent_id VARCHAR NOT NULL,
	agent_type SMALLINT NOT NULL,
	capabilities_json VARCHAR NOT NULL,
	expire_ms BIGINT NOT NULL,
	uses_left INTEGER NOT NULL,
	create_ms BIGINT NOT NULL,
	parent VARCHAR NOT NULL,
	CONSTRAINT pk_join_tokens PRIMARY KEY (token_hash)
);
INSERT INTO "join_tokens" VALUES(X'6868686868686868686868686868686868686868686868686868686868686868','default','c',2,'["x"]',35184372088832,1,1,'');
CREATE TABLE namespaces (
	name VARCHAR NOT NULL,
	description VARCHAR NOT NULL,
	create_ms BIGINT NOT NULL,
	epoch BIGINT NOT NULL,
	CONSTRAINT pk_namespaces PRIMARY KEY (name)
);
INSERT INTO "namespaces" VALUES('_mesh','',1,3);
INSERT INTO "namespaces" VALUES('default','',1,3);
CREATE TABLE outputs (
	task_key INTEGER NOT NULL,
	body BLOB NOT NULL,
	CONSTRAINT pk_outputs PRIMARY KEY (task_key)
);
INSERT INTO "outputs" VALUES(4,X'726573756C74');
CREATE TABLE payloads (
	task_key INTEGER NOT NULL,
	body BLOB NOT NULL,
	CONSTRAINT pk_payloads PRIMARY KEY (task_key)
);
INSERT INTO "payloads" VALUES(1,X'696E707574');
INSERT INTO "payloads" VALUES(2,X'696E707574');
INSERT INTO "payloads" VALUES(3,X'696E707574');
INSERT INTO "payloads" VALUES(4,X'696E707574');
CREATE TABLE revocations (
	family VARCHAR NOT NULL,
	namespace VARCHAR NOT NULL,
	revoke_ms BIGINT NOT NULL,
	keep_until_ms BIGINT NOT NULL,
	CONSTRAINT pk_revocations PRIMARY KEY (family, namespace)
);
INSERT INTO "revocations" VALUES('b.0.r','default',1,35184372088832);
CREATE TABLE signing_keys (
	key_id VARCHAR NOT NULL,
	public_key BLOB NOT NULL,
	create_ms BIGINT NOT NULL,
	CONSTRAINT pk_signing_keys PRIMARY KEY (key_id)
);
INSERT INTO "signing_keys" VALUES('key',X'7070707070707070707070707070707070707070707070707070707070707070',1);
CREATE TABLE tasks (
	"key" INTEGER NOT NULL,
	state SMALLINT NOT NULL,
	generation BIGINT NOT NULL,
	outcome SMALLINT NOT NULL,
	end_ms BIGINT NOT NULL,
	failures INTEGER NOT NULL,
	losses INTEGER NOT NULL,
	cancel_ms BIGINT NOT NULL,
	cancel_grace_ms BIGINT NOT NULL,
	cancel_cause SMALLINT NOT NULL,
	next_attempt_ms BIGINT NOT NULL,
	failure_json VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	attempt_state SMALLINT NOT NULL,
	agent_id VARCHAR NOT NULL,
	session_id VARCHAR NOT NULL,
	fence_number BIGINT NOT NULL,
	assign_ms BIGINT NOT NULL,
	namespace VARCHAR NOT NULL,
	task_id VARCHAR NOT NULL,
	task_type VARCHAR NOT NULL,
	digest BLOB NOT NULL,
	incarnation BIGINT NOT NULL,
	priority SMALLINT NOT NULL,
	submit_ms BIGINT NOT NULL,
	submitter VARCHAR NOT NULL,
	payload_bytes BIGINT NOT NULL,
	deadline_ms BIGINT NOT NULL,
	queue_deadline_ms BIGINT NOT NULL,
	traceparent VARCHAR NOT NULL,
	options_json VARCHAR NOT NULL,
	CONSTRAINT pk_tasks PRIMARY KEY ("key"),
	CONSTRAINT uq_tasks_task_id_namespace UNIQUE (task_id, namespace)
);
INSERT INTO "tasks" VALUES(1,2,1,0,0,0,0,0,0,0,0,'',0,8,'','',0,0,'default','t1','work',X'64646464646464646464646464646464',11,5,5,'operator:test',5,0,0,'','{"labels":{"team":"blue"}}');
INSERT INTO "tasks" VALUES(2,3,1,0,0,0,0,0,0,0,0,'',1,1,'a','s',1099511627776,6,'default','t2','work',X'64646464646464646464646464646464',12,5,5,'operator:test',5,0,0,'','');
INSERT INTO "tasks" VALUES(3,1,1,0,0,1,0,0,0,0,35184372088832,'["E","m",true]',0,8,'','',0,0,'default','t3','work',X'64646464646464646464646464646464',13,5,5,'operator:test',5,0,0,'','');
INSERT INTO "tasks" VALUES(4,5,1,1,35184372088832,0,0,0,0,0,0,'',0,8,'','',0,0,'default','t4','work',X'64646464646464646464646464646464',-9223372036854775808,5,5,'operator:test',5,0,0,'','');
CREATE INDEX ix_tasks_namespace_key ON tasks (namespace, "key");
CREATE INDEX ix_tasks_open ON tasks ("key") WHERE state < 5;
CREATE INDEX ix_tasks_ended ON tasks (end_ms) WHERE state >= 5;
COMMIT;
