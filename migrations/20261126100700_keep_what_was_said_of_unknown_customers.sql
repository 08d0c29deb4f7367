-- A link that led nowhere is forgotten; what was said of the customer is not, so that nothing older follows once
-- FlexPortal knows it again.
alter table customer_links alter column flexportal_customer_id drop not null;

comment on column customer_links.flexportal_customer_id is 'FlexPortal''s customer; null while FlexPortal does not know it any more.';
