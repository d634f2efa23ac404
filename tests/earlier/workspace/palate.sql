BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	CONSTRAINT pk_attempts PRIMARY KEY (id)
);
CREATE TABLE batches (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	state TEXT NOT NULL, 
	overlap INTEGER NOT NULL, 
	per_labeler INTEGER, 
	lease_seconds DOUBLE NOT NULL, 
	is_screening BOOLEAN NOT NULL, 
	threshold DOUBLE, 
	settings JSON NOT NULL, 
	round_number INTEGER, 
	created_by TEXT, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_batches PRIMARY KEY (id), 
	CONSTRAINT ck_batches_kind_known CHECK (kind IN ('ranking', 'pair', 'demonstration', 'arena')), 
	CONSTRAINT ck_batches_state_known CHECK (state IN ('open', 'paused', 'closed')), 
	CONSTRAINT ck_batches_overlap_positive CHECK (overlap >= 1), 
	CONSTRAINT fk_batches_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_batches_round_number FOREIGN KEY(round_number) REFERENCES rounds (number)
);
INSERT INTO "batches" VALUES('yCKPK1SukyNtQ_8h','ranking batch','ranking','open',2,NULL,1800.0,0,NULL,'{}',NULL,NULL,1.79596642574323177342e+09);
INSERT INTO "batches" VALUES('5poXgcBvdvHoLupt','pair batch','pair','open',2,NULL,1800.0,0,NULL,'{}',NULL,NULL,1.79596642580630230898e+09);
INSERT INTO "batches" VALUES('StcwkPcvkFzE3a1r','demonstration batch','demonstration','open',2,NULL,1800.0,0,NULL,'{}',NULL,NULL,1.79596642581032061572e+09);
INSERT INTO "batches" VALUES('eetjOrwfW5QDajIa','ranking test','ranking','open',1,NULL,1800.0,1,0.5,'{}',NULL,NULL,1.79596642581418108938e+09);
CREATE TABLE chat_messages (
	id TEXT NOT NULL, 
	conversation_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	variant INTEGER NOT NULL, 
	role TEXT NOT NULL, 
	content TEXT NOT NULL, 
	state TEXT NOT NULL, 
	is_chosen BOOLEAN NOT NULL, 
	provenance JSON, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_chat_messages PRIMARY KEY (id), 
	CONSTRAINT fk_chat_messages_conversation_id FOREIGN KEY(conversation_id) REFERENCES conversations (id), 
	CONSTRAINT uq_chat_messages_place UNIQUE (conversation_id, position, variant)
);
CREATE TABLE conversations (
	id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	title TEXT NOT NULL, 
	settings JSON NOT NULL, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	deleted_at DOUBLE, 
	CONSTRAINT pk_conversations PRIMARY KEY (id), 
	CONSTRAINT fk_conversations_model_id FOREIGN KEY(model_id) REFERENCES models (id), 
	CONSTRAINT fk_conversations_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	user_id TEXT, 
	action TEXT NOT NULL, 
	detail JSON NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id)
);
CREATE TABLE guidelines (
	version INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	author_id TEXT, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_guidelines PRIMARY KEY (version), 
	CONSTRAINT fk_guidelines_author_id FOREIGN KEY(author_id) REFERENCES users (id)
);
CREATE TABLE invitations (
	id TEXT NOT NULL, 
	token_hash TEXT NOT NULL, 
	role TEXT NOT NULL, 
	note TEXT NOT NULL, 
	created_by TEXT, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	used_by TEXT, 
	used_at DOUBLE, 
	revoked_at DOUBLE, 
	CONSTRAINT pk_invitations PRIMARY KEY (id), 
	CONSTRAINT ck_invitations_role_known CHECK (role IN ('admin', 'researcher', 'reviewer', 'labeler', 'chat')), 
	CONSTRAINT fk_invitations_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_invitations_used_by FOREIGN KEY(used_by) REFERENCES users (id), 
	CONSTRAINT uq_invitations_token_hash UNIQUE (token_hash)
);
CREATE TABLE item_authors (
	item_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	CONSTRAINT pk_item_authors PRIMARY KEY (item_id, user_id), 
	CONSTRAINT fk_item_authors_item_id FOREIGN KEY(item_id) REFERENCES items (id), 
	CONSTRAINT fk_item_authors_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE items (
	id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	prompt_id TEXT NOT NULL, 
	response_ids JSON NOT NULL, 
	gold JSON, 
	priority DOUBLE NOT NULL, 
	position INTEGER NOT NULL, 
	open_places INTEGER NOT NULL, 
	CONSTRAINT pk_items PRIMARY KEY (id), 
	CONSTRAINT ck_items_open_places_counted CHECK (open_places >= 0), 
	CONSTRAINT fk_items_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id), 
	CONSTRAINT fk_items_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);
INSERT INTO "items" VALUES('lIwAdv0yFjmYked5','yCKPK1SukyNtQ_8h','8137ac552556f35d','["skKrrfN2A_hXbpWj", "XXBOfDpi58-dsV4K", "g45MxsJsRx89TU2V", "TUq2iYkXSolLtFef"]',NULL,0.0,0,0);
INSERT INTO "items" VALUES('qcSnn3QLZrTrg1Dg','yCKPK1SukyNtQ_8h','497ecf49241ce949','["24sdCwat36vWTWgr", "PcyOE1_JqkxHE1i3", "kgXR3nUhh9huFBga", "NjkGys1lCsNxy46v"]',NULL,0.0,1,0);
INSERT INTO "items" VALUES('axyi--Wts60F4Tjn','5poXgcBvdvHoLupt','6ded9a0b24f50f46','["5ihEeoxfOfKqALT8", "9KycUJNwQEES65FL"]',NULL,0.0,0,0);
INSERT INTO "items" VALUES('BCPoLaP-JUk4K5zM','StcwkPcvkFzE3a1r','412a0f52085b4631','[]',NULL,0.0,0,0);
INSERT INTO "items" VALUES('e6u4aF8wxq6XVD0p','eetjOrwfW5QDajIa','f9d0b37b50e681bb','["XV8ISCvJa65APG5V", "GQ3PKeLcxY5I4kjx"]','[1, 2]',0.0,0,999998);
CREATE TABLE jobs (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	recipe TEXT NOT NULL, 
	directory TEXT NOT NULL, 
	state TEXT NOT NULL, 
	pid INTEGER, 
	process_started DOUBLE, 
	message TEXT NOT NULL, 
	"then" JSON NOT NULL, 
	round_number INTEGER, 
	created_by TEXT, 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	ended_at DOUBLE, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT ck_jobs_state_known CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')), 
	CONSTRAINT fk_jobs_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_jobs_round_number FOREIGN KEY(round_number) REFERENCES rounds (number), 
	CONSTRAINT uq_jobs_directory UNIQUE (directory)
);
INSERT INTO "jobs" VALUES('B20Qw758ys30WEXY','rewards','reward','stage = "reward"
data.path = "x.jsonl"
','runs/reward-1','done',NULL,NULL,'','{"do": "nothing"}',NULL,NULL,2.0,3.0,4.0);
CREATE TABLE judgements (
	number INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	record JSON NOT NULL, 
	user_id TEXT NOT NULL, 
	task_id TEXT, 
	item_id TEXT, 
	message_id TEXT, 
	supersedes TEXT, 
	guideline_version INTEGER, 
	seconds DOUBLE, 
	quality JSON NOT NULL, 
	comment TEXT NOT NULL, 
	consent BOOLEAN NOT NULL, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_judgements PRIMARY KEY (number), 
	CONSTRAINT ck_judgements_kind_known CHECK (kind IN ('ranking', 'demonstration', 'thumb', 'edit', 'choice', 'withdrawal')), 
	CONSTRAINT fk_judgements_guideline_version FOREIGN KEY(guideline_version) REFERENCES guidelines (version), 
	CONSTRAINT fk_judgements_item_id FOREIGN KEY(item_id) REFERENCES items (id), 
	CONSTRAINT fk_judgements_message_id FOREIGN KEY(message_id) REFERENCES chat_messages (id), 
	CONSTRAINT fk_judgements_supersedes FOREIGN KEY(supersedes) REFERENCES judgements (id), 
	CONSTRAINT fk_judgements_task_id FOREIGN KEY(task_id) REFERENCES tasks (id), 
	CONSTRAINT fk_judgements_user_id FOREIGN KEY(user_id) REFERENCES users (id), 
	CONSTRAINT uq_judgements_id UNIQUE (id), 
	CONSTRAINT uq_judgements_supersedes UNIQUE (supersedes)
);
INSERT INTO "judgements" VALUES(1,'WAbAYFL5BeTSMH1h','ranking','{"prompt": {"messages": [{"role": "user", "content": "ranking question 0"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model"}}, {"text": "answer number 1", "provenance": {"model": "some-model"}}, {"text": "answer number 2", "provenance": {"model": "some-model"}}, {"text": "answer number 3", "provenance": {"model": "some-model"}}], "ranks": [1, 2, 2, 3], "ratings": [6.0, 4.0, 4.0, 2.0], "labeler": "Lea", "shown_order": [3, 2, 0, 1], "seconds": 60.0}','ZOlOYCrPQblpwWIS','MdBGaCTPEq_ukPFz','lIwAdv0yFjmYked5',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642585217046743e+09);
INSERT INTO "judgements" VALUES(2,'kvnVWP1cZjq8wyu6','ranking','{"prompt": {"messages": [{"role": "user", "content": "ranking question 1"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model", "seed": 1}}, {"text": "answer number 1", "provenance": {"model": "some-model", "seed": 1}}, {"text": "answer number 2", "provenance": {"model": "some-model", "seed": 1}}, {"text": "answer number 3", "provenance": {"model": "some-model", "seed": 1}}], "ranks": [1, 2, 2, 3], "ratings": [6.0, 4.0, 4.0, 2.0], "labeler": "Lea", "shown_order": [0, 2, 1, 3], "seconds": 60.0}','ZOlOYCrPQblpwWIS','RcH0-R5jjhIwRL6i','qcSnn3QLZrTrg1Dg',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642586358261114e+09);
INSERT INTO "judgements" VALUES(3,'NUsfAOORJsdSVvYo','ranking','{"prompt": {"messages": [{"role": "user", "content": "pair question 0"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model"}}, {"text": "answer number 1", "provenance": {"model": "some-model"}}], "ranks": [2, 1], "strength": 2.0, "labeler": "Lea", "shown_order": [0, 1], "seconds": 60.0}','ZOlOYCrPQblpwWIS','QgFm7XuTlk0jqwqP','axyi--Wts60F4Tjn',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642587380027769e+09);
INSERT INTO "judgements" VALUES(4,'X_K2pe_R93I89bjA','demonstration','{"prompt": {"messages": [{"role": "user", "content": "demonstration question 0"}]}, "response": {"text": "my way, number 0"}, "author": "Lea"}','ZOlOYCrPQblpwWIS','I681XJzyVraLfF0Q','BCPoLaP-JUk4K5zM',NULL,NULL,NULL,60.0,'{}','',1,1.79596642588141465184e+09);
INSERT INTO "judgements" VALUES(5,'vtX3KoVDUazqgDfd','ranking','{"prompt": {"messages": [{"role": "user", "content": "ranking test question 0"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model"}}, {"text": "answer number 1", "provenance": {"model": "some-model"}}], "ranks": [2, 1], "ratings": [4.0, 6.0], "labeler": "Lea", "shown_order": [0, 1], "seconds": 60.0}','ZOlOYCrPQblpwWIS','CFjBfRVj5mX0doH-','e6u4aF8wxq6XVD0p',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642589175796511e+09);
INSERT INTO "judgements" VALUES(6,'g4467rqSr3nKaMQz','ranking','{"prompt": {"messages": [{"role": "user", "content": "ranking question 0"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model"}}, {"text": "answer number 1", "provenance": {"model": "some-model"}}, {"text": "answer number 2", "provenance": {"model": "some-model"}}, {"text": "answer number 3", "provenance": {"model": "some-model"}}], "ranks": [2, 1, 3, 3], "ratings": [4.0, 6.0, 2.0, 2.0], "labeler": "Rob", "shown_order": [0, 3, 1, 2], "seconds": 60.0}','xbgnrxR0qwbOXcSr','x7cYx1p3BvwAsH1Z','lIwAdv0yFjmYked5',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642590011143685e+09);
INSERT INTO "judgements" VALUES(7,'2Va5hzqNawC72nJ0','ranking','{"prompt": {"messages": [{"role": "user", "content": "ranking question 1"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model", "seed": 1}}, {"text": "answer number 1", "provenance": {"model": "some-model", "seed": 1}}, {"text": "answer number 2", "provenance": {"model": "some-model", "seed": 1}}, {"text": "answer number 3", "provenance": {"model": "some-model", "seed": 1}}], "ranks": [2, 1, 3, 3], "ratings": [4.0, 6.0, 2.0, 2.0], "labeler": "Rob", "shown_order": [3, 1, 0, 2], "seconds": 60.0}','xbgnrxR0qwbOXcSr','KIMq9ZmoPrdkeNWk','qcSnn3QLZrTrg1Dg',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642590883421902e+09);
INSERT INTO "judgements" VALUES(8,'quVSN85kaYjRbdqD','ranking','{"prompt": {"messages": [{"role": "user", "content": "pair question 0"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model"}}, {"text": "answer number 1", "provenance": {"model": "some-model"}}], "ranks": [2, 1], "strength": 2.0, "labeler": "Rob", "shown_order": [0, 1], "seconds": 60.0}','xbgnrxR0qwbOXcSr','qGfvmUeFj70NM7Nn','axyi--Wts60F4Tjn',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642591723775861e+09);
INSERT INTO "judgements" VALUES(9,'QXXNr9_m_8c-1JVd','demonstration','{"prompt": {"messages": [{"role": "user", "content": "demonstration question 0"}]}, "response": {"text": "my way, number 1"}, "author": "Rob"}','xbgnrxR0qwbOXcSr','3P_HRAqPFA8VmA-y','BCPoLaP-JUk4K5zM',NULL,NULL,NULL,60.0,'{}','',1,1.7959664259247131347e+09);
INSERT INTO "judgements" VALUES(10,'wXh_6p7uFmAzxb2k','ranking','{"prompt": {"messages": [{"role": "user", "content": "ranking test question 0"}]}, "responses": [{"text": "answer number 0", "provenance": {"model": "some-model"}}, {"text": "answer number 1", "provenance": {"model": "some-model"}}], "ranks": [2, 1], "ratings": [4.0, 6.0], "labeler": "Rob", "shown_order": [1, 0], "seconds": 60.0}','xbgnrxR0qwbOXcSr','qT87y2dXk1hAGom8','e6u4aF8wxq6XVD0p',NULL,NULL,NULL,60.0,'{}','a comment',1,1.79596642593374037745e+09);
INSERT INTO "judgements" VALUES(11,'aG4nleOIcF0LlHpe','thumb','{"prompt": {"messages": [{"role": "user", "content": "what people ask in the chat"}]}, "responses": [{"text": "what the model said", "provenance": {"model": "some-model"}}], "ranks": [1], "ratings": [7.0], "labeler": "Lea"}','ZOlOYCrPQblpwWIS',NULL,NULL,NULL,NULL,NULL,NULL,'{}','',1,1.79596642593594717977e+09);
INSERT INTO "judgements" VALUES(12,'j681PeBVXk-Dqz3k','edit','{"prompt": {"messages": [{"role": "user", "content": "what people ask in the chat"}]}, "responses": [{"text": "what the model said", "provenance": {"model": "some-model"}}, {"text": "my version"}], "ranks": [2, 1], "labeler": "Lea"}','ZOlOYCrPQblpwWIS',NULL,NULL,NULL,NULL,NULL,NULL,'{}','',1,1.79596642593673300747e+09);
INSERT INTO "judgements" VALUES(13,'4LeXOWncvS5Jjxfz','thumb','{"prompt": {"messages": [{"role": "user", "content": "a private matter"}]}, "responses": [{"text": "what the model said", "provenance": {"model": "some-model"}}], "ranks": [1], "ratings": [1.0], "labeler": "Lea"}','ZOlOYCrPQblpwWIS',NULL,NULL,NULL,NULL,NULL,NULL,'{}','',0,1.79596642593734264368e+09);
CREATE TABLE logins (
	token_hash TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	role TEXT NOT NULL, 
	csrf TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	CONSTRAINT pk_logins PRIMARY KEY (token_hash), 
	CONSTRAINT fk_logins_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE models (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	path TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	parent_id TEXT, 
	job_id TEXT, 
	round_number INTEGER, 
	CONSTRAINT pk_models PRIMARY KEY (id), 
	CONSTRAINT ck_models_kind_known CHECK (kind IN ('policy', 'reward')), 
	CONSTRAINT fk_models_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_models_parent_id FOREIGN KEY(parent_id) REFERENCES models (id), 
	CONSTRAINT fk_models_round_number FOREIGN KEY(round_number) REFERENCES rounds (number), 
	CONSTRAINT uq_models_name UNIQUE (name)
);
INSERT INTO "models" VALUES('OVQS8EqE-buANXcq','tiny','tiny','policy',1.0,NULL,NULL,NULL);
CREATE TABLE prompts (
	id TEXT NOT NULL, 
	record JSON NOT NULL, 
	source TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_prompts PRIMARY KEY (id)
);
INSERT INTO "prompts" VALUES('8137ac552556f35d','{"messages": [{"role": "user", "content": "ranking question 0"}]}','',1.79596642574542403217e+09);
INSERT INTO "prompts" VALUES('497ecf49241ce949','{"messages": [{"role": "user", "content": "ranking question 1"}]}','',1.79596642580138254169e+09);
INSERT INTO "prompts" VALUES('6ded9a0b24f50f46','{"messages": [{"role": "user", "content": "pair question 0"}]}','',1.79596642580696201326e+09);
INSERT INTO "prompts" VALUES('412a0f52085b4631','{"messages": [{"role": "user", "content": "demonstration question 0"}]}','',1.79596642581101822847e+09);
INSERT INTO "prompts" VALUES('f9d0b37b50e681bb','{"messages": [{"role": "user", "content": "ranking test question 0"}]}','',1.79596642581474518775e+09);
CREATE TABLE responses (
	id TEXT NOT NULL, 
	prompt_id TEXT NOT NULL, 
	record JSON NOT NULL, 
	model_id TEXT, 
	author_id TEXT, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_responses PRIMARY KEY (id), 
	CONSTRAINT fk_responses_author_id FOREIGN KEY(author_id) REFERENCES users (id), 
	CONSTRAINT fk_responses_model_id FOREIGN KEY(model_id) REFERENCES models (id), 
	CONSTRAINT fk_responses_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);
INSERT INTO "responses" VALUES('skKrrfN2A_hXbpWj','8137ac552556f35d','{"text": "answer number 0", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642575043463707e+09);
INSERT INTO "responses" VALUES('XXBOfDpi58-dsV4K','8137ac552556f35d','{"text": "answer number 1", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642575140810014e+09);
INSERT INTO "responses" VALUES('g45MxsJsRx89TU2V','8137ac552556f35d','{"text": "answer number 2", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642575174856183e+09);
INSERT INTO "responses" VALUES('TUq2iYkXSolLtFef','8137ac552556f35d','{"text": "answer number 3", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642575199723248e+09);
INSERT INTO "responses" VALUES('24sdCwat36vWTWgr','497ecf49241ce949','{"text": "answer number 0", "provenance": {"model": "some-model", "seed": 1}}',NULL,NULL,1.79596642580221176142e+09);
INSERT INTO "responses" VALUES('PcyOE1_JqkxHE1i3','497ecf49241ce949','{"text": "answer number 1", "provenance": {"model": "some-model", "seed": 1}}',NULL,NULL,1.79596642580250453946e+09);
INSERT INTO "responses" VALUES('kgXR3nUhh9huFBga','497ecf49241ce949','{"text": "answer number 2", "provenance": {"model": "some-model", "seed": 1}}',NULL,NULL,1.79596642580284237859e+09);
INSERT INTO "responses" VALUES('NjkGys1lCsNxy46v','497ecf49241ce949','{"text": "answer number 3", "provenance": {"model": "some-model", "seed": 1}}',NULL,NULL,1.7959664258030874729e+09);
INSERT INTO "responses" VALUES('5ihEeoxfOfKqALT8','6ded9a0b24f50f46','{"text": "answer number 0", "provenance": {"model": "some-model"}}',NULL,NULL,1.7959664258075742722e+09);
INSERT INTO "responses" VALUES('9KycUJNwQEES65FL','6ded9a0b24f50f46','{"text": "answer number 1", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642580785083777e+09);
INSERT INTO "responses" VALUES('XV8ISCvJa65APG5V','f9d0b37b50e681bb','{"text": "answer number 0", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642581531929969e+09);
INSERT INTO "responses" VALUES('GQ3PKeLcxY5I4kjx','f9d0b37b50e681bb','{"text": "answer number 1", "provenance": {"model": "some-model"}}',NULL,NULL,1.79596642581558322906e+09);
CREATE TABLE reviews (
	id TEXT NOT NULL, 
	item_id TEXT NOT NULL, 
	reviewer_id TEXT NOT NULL, 
	decision TEXT NOT NULL, 
	note TEXT NOT NULL, 
	judgement_id TEXT, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_reviews PRIMARY KEY (id), 
	CONSTRAINT ck_reviews_decision_known CHECK (decision IN ('keep', 'discard', 'settle')), 
	CONSTRAINT fk_reviews_item_id FOREIGN KEY(item_id) REFERENCES items (id), 
	CONSTRAINT fk_reviews_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgements (id), 
	CONSTRAINT fk_reviews_reviewer_id FOREIGN KEY(reviewer_id) REFERENCES users (id)
);
CREATE TABLE rounds (
	number INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	policy_id TEXT, 
	created_at DOUBLE NOT NULL, 
	closed_at DOUBLE, 
	CONSTRAINT pk_rounds PRIMARY KEY (number)
);
CREATE TABLE settings (
	"key" TEXT NOT NULL, 
	value JSON NOT NULL, 
	CONSTRAINT pk_settings PRIMARY KEY ("key")
);
CREATE TABLE tasks (
	id TEXT NOT NULL, 
	item_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	leased_until DOUBLE NOT NULL, 
	shown_order JSON NOT NULL, 
	created_at DOUBLE NOT NULL, 
	ended_at DOUBLE, 
	draft JSON, 
	draft_at DOUBLE, 
	skip_reason TEXT, 
	is_surplus BOOLEAN NOT NULL, 
	CONSTRAINT pk_tasks PRIMARY KEY (id), 
	CONSTRAINT ck_tasks_state_known CHECK (state IN ('leased', 'submitted', 'skipped', 'released')), 
	CONSTRAINT fk_tasks_item_id FOREIGN KEY(item_id) REFERENCES items (id), 
	CONSTRAINT fk_tasks_user_id FOREIGN KEY(user_id) REFERENCES users (id), 
	CONSTRAINT uq_tasks_item_user UNIQUE (item_id, user_id)
);
INSERT INTO "tasks" VALUES('MdBGaCTPEq_ukPFz','lIwAdv0yFjmYked5','ZOlOYCrPQblpwWIS','submitted',1.79596822582220244407e+09,'[3, 2, 0, 1]',1.79596642582220244405e+09,1.7959664258513724804e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('RcH0-R5jjhIwRL6i','qcSnn3QLZrTrg1Dg','ZOlOYCrPQblpwWIS','submitted',1.79596822585621309275e+09,'[0, 2, 1, 3]',1.79596642585621309282e+09,1.7959664258630676269e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('QgFm7XuTlk0jqwqP','axyi--Wts60F4Tjn','ZOlOYCrPQblpwWIS','submitted',1.79596822586645627024e+09,'[0, 1]',1.79596642586645627022e+09,1.79596642587332105643e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('I681XJzyVraLfF0Q','BCPoLaP-JUk4K5zM','ZOlOYCrPQblpwWIS','submitted',1.79596822587674903874e+09,'[]',1.79596642587674903872e+09,1.7959664258809108734e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('CFjBfRVj5mX0doH-','e6u4aF8wxq6XVD0p','ZOlOYCrPQblpwWIS','submitted',1.7959682258845639229e+09,'[0, 1]',1.79596642588456392288e+09,1795966425.89133,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('x7cYx1p3BvwAsH1Z','lIwAdv0yFjmYked5','xbgnrxR0qwbOXcSr','submitted',1.79596822589460229872e+09,'[0, 3, 1, 2]',1.79596642589460229869e+09,1.79596642589965510366e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('KIMq9ZmoPrdkeNWk','qcSnn3QLZrTrg1Dg','xbgnrxR0qwbOXcSr','submitted',1.79596822590295338633e+09,'[3, 1, 0, 2]',1.79596642590295338631e+09,1.79596642590828371047e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('qGfvmUeFj70NM7Nn','axyi--Wts60F4Tjn','xbgnrxR0qwbOXcSr','submitted',1.79596822591163420672e+09,'[0, 1]',1.79596642591163420683e+09,1.79596642591677021984e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('3P_HRAqPFA8VmA-y','BCPoLaP-JUk4K5zM','xbgnrxR0qwbOXcSr','submitted',1.79596822591959047314e+09,'[]',1.7959664259195904732e+09,1.7959664259241287708e+09,NULL,NULL,NULL,0);
INSERT INTO "tasks" VALUES('qT87y2dXk1hAGom8','e6u4aF8wxq6XVD0p','xbgnrxR0qwbOXcSr','submitted',1.79596822592726731299e+09,'[1, 0]',1.79596642592726731305e+09,1.79596642593306875224e+09,NULL,NULL,NULL,0);
CREATE TABLE tokens (
	id TEXT NOT NULL, 
	token_hash TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	seen_at DOUBLE, 
	revoked_at DOUBLE, 
	CONSTRAINT pk_tokens PRIMARY KEY (id), 
	CONSTRAINT fk_tokens_user_id FOREIGN KEY(user_id) REFERENCES users (id), 
	CONSTRAINT uq_tokens_token_hash UNIQUE (token_hash)
);
CREATE TABLE users (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	name_key TEXT NOT NULL, 
	password_hash TEXT NOT NULL, 
	role TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	is_paused BOOLEAN NOT NULL, 
	is_held_out BOOLEAN NOT NULL, 
	screening TEXT, 
	weight DOUBLE NOT NULL, 
	tasks_per_day INTEGER, 
	CONSTRAINT pk_users PRIMARY KEY (id), 
	CONSTRAINT ck_users_role_known CHECK (role IN ('admin', 'researcher', 'reviewer', 'labeler', 'chat')), 
	CONSTRAINT uq_users_name_key UNIQUE (name_key)
);
INSERT INTO "users" VALUES('sywqQYERcGMLH3CG','Ada','ada','','admin',1.79596642568905210494e+09,0,0,NULL,1.0,NULL);
INSERT INTO "users" VALUES('ZOlOYCrPQblpwWIS','Lea','lea','','labeler',1.79596642571497273443e+09,0,0,NULL,1.0,NULL);
INSERT INTO "users" VALUES('xbgnrxR0qwbOXcSr','Rob','rob','','labeler',1.79596642573795175559e+09,0,0,NULL,1.0,NULL);
CREATE INDEX ix_attempts_key_at ON attempts ("key", at);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_logins_user_id ON logins (user_id);
CREATE INDEX ix_tokens_user_id ON tokens (user_id);
CREATE INDEX ix_items_next ON items (batch_id, open_places, priority, position);
CREATE INDEX ix_conversations_user ON conversations (user_id, updated_at);
CREATE INDEX ix_responses_prompt_id ON responses (prompt_id);
CREATE INDEX ix_tasks_lease ON tasks (state, leased_until);
CREATE INDEX ix_tasks_user_state ON tasks (user_id, state);
CREATE INDEX ix_chat_messages_conversation_id ON chat_messages (conversation_id);
CREATE INDEX ix_judgements_item_id ON judgements (item_id);
CREATE INDEX ix_judgements_message_id ON judgements (message_id);
CREATE INDEX ix_judgements_task_id ON judgements (task_id);
CREATE INDEX ix_judgements_user_id ON judgements (user_id);
CREATE INDEX ix_reviews_item_id ON reviews (item_id);
CREATE TRIGGER judgements_no_update BEFORE UPDATE ON judgements BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END;
CREATE TRIGGER judgements_no_delete BEFORE DELETE ON judgements BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END;
CREATE TRIGGER judgements_no_replace BEFORE INSERT ON judgements WHEN EXISTS (SELECT 1 FROM judgements WHERE number = NEW.number OR id = NEW.id OR supersedes = NEW.supersedes) BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END;
COMMIT;
